#!/usr/bin/env bash
# lmms-eval 0.7.3: a statement of CMMMU that is answered with "不对" (not right) or "不正确" (not correct) is scored as "对" (right).
#
# Answers to statements are sorted by words: one with 正确, 对, 准确 or 肯定 in it says right; else one with 不对, 错误, 不正确,
# 不准确 ... says wrong. The words of the first list stand inside those of the second, and the first is asked first, so that the most common
# ways to say no in Chinese count as yes: 不对, 不正确 and 不准确 are never reached. Only 错误, 错, 不合适 and 否定 say no. VLMEvalKit has the same
# lists in the same order.
#
# Seen: "不对" and "不正确" are right where the reference is 对 and wrong where it is 错; "错误" is the other way round, as it should be.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --disable-pip-version-check"
$pip "loguru==0.7.3"
$pip --no-deps "lmms_eval==0.7.3"
cat > "$work/score.py" <<'PYTHON'
import sys
from importlib.metadata import files
from types import ModuleType

(file,) = (f for f in files("lmms_eval") if f.match("lmms_eval/tasks/cmmmu/utils.py"))
tasks = ModuleType("lmms_eval.tasks")  # whose own module wants torch and datasets
tasks.__path__ = [str(file.locate().parents[1])]
sys.modules["lmms_eval.tasks"] = tasks
from lmms_eval.tasks.cmmmu.utils import cmmmu_process_results, eval_cmmmu

for said in ("不对", "不正确", "错误"):
    for true in ("对", "错"):
        row = {"type": "判断", "answer": true, "id": 1, "subcategory": "数学"}
        found = cmmmu_process_results(row, [said])["cmmmu_acc"]
        print(said, true, eval_cmmmu([found])["acc"])
PYTHON
PYTHONIOENCODING=utf-8 "$work/venv/bin/python" "$work/score.py" > "$work/out"
cat "$work/out"
for said in 不对 不正确; do
  grep -qx "$said 对 1.0" "$work/out" || { echo "CHANGED: $said is not 对"; exit 1; }
  grep -qx "$said 错 0.0" "$work/out" || { echo "CHANGED: $said is 错"; exit 1; }
done
grep -qx "错误 错 1.0" "$work/out" || { echo "CHANGED: 错误 is not 错"; exit 1; }
echo "as described: 不对 and 不正确 are scored as 对"
