#!/usr/bin/env bash
# lmms-eval 0.7.3: POPE's `yes_ratio` is counted over the references, so that it is the same for every model.
#
# The share of answers that say yes is what POPE gives beside F1 to show that a model says yes to everything. The function that
# aggregates it looks at "ground_truth" instead of "prediction": the number says how many questions have yes for an answer (a half), whatever
# a model says. Accuracy, precision and recall beside it are right, so that nothing looks wrong.
#
# Seen: of four questions, two of which are to be answered with yes, a model that always says yes has a yes_ratio of 0.5, and one that
# always says no has 0.5 as well. Expected: 1.0 and 0.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "lmms_eval==0.7.3" 2> "$work/err" || { cat "$work/err"; exit 1; }
cat > "$work/ratio.py" <<'PYTHON'
import runpy
from importlib.metadata import files

(file,) = (f for f in files("lmms_eval") if f.match("lmms_eval/tasks/pope/utils.py"))
pope = runpy.run_path(str(file.locate()))  # alone: the package itself wants torch
for said in ("yes", "no"):
    rows = [{"question_id": n, "answer": true} for n, true in enumerate(["yes", "no", "yes", "no"])]
    results = [pope["pope_process_results"](row, [said])["pope_yes_ratio"] for row in rows]
    print("always", said, pope["pope_aggregate_yes_ratio"](results))
PYTHON
"$work/venv/bin/python" "$work/ratio.py" > "$work/out"
cat "$work/out"
grep -qx "always yes 0.5" "$work/out" || { echo "CHANGED: answers that all say yes have another share"; exit 1; }
grep -qx "always no 0.5" "$work/out" || { echo "CHANGED: answers that all say no have another share"; exit 1; }
echo "as described: the share of yes is that of the references"
