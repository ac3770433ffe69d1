#!/usr/bin/env bash
# lmms-eval 0.7.3: tasks that compare likelihoods (output_type: multiple_choice or loglikelihood) fail with every model.
#
# A model answers each such request with a pair (log-probability, whether greedy). The evaluator passes every answer through
# `unwrap_generation_output`, made for generated texts: what is neither a text, nor a text with counts of tokens, nor a list of texts becomes
# str(answer). The task then gets "(-1.5, True)" where it unpacks a pair, and `process_results` raises ValueError, five times over.
#
# Seen: the pair (-1.5, True) comes back as the text "(-1.5, True)", which `zip(*results)` takes apart letter by letter.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "lmms_eval==0.7.3"
cat > "$work/unwrap.py" <<'PYTHON'
import sys
from importlib.util import module_from_spec, spec_from_file_location
from importlib.metadata import files

(file,) = (f for f in files("lmms_eval") if f.match("lmms_eval/api/instance.py"))
spec = spec_from_file_location("instance", file.locate())  # without the package, which wants torch
instance = module_from_spec(spec)
sys.modules["instance"] = instance
spec.loader.exec_module(instance)
answer, _ = instance.unwrap_generation_output((-1.5, True))
print(repr(answer))
try:
    logprobs, greedy = zip(*[answer, answer])
except ValueError as error:
    print(error)
PYTHON
"$work/venv/bin/python" "$work/unwrap.py" > "$work/out"
cat "$work/out"
grep -qx "'(-1.5, True)'" "$work/out" || { echo "CHANGED: pairs stay pairs"; exit 1; }
grep -q "too many values to unpack" "$work/out" || { echo "CHANGED: the text can be taken apart"; exit 1; }
echo "as described: the likelihoods of a model reach the task as text"
