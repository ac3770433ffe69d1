#!/usr/bin/env bash
# Measure one CUDA device in ten minutes: the shape of MiniCPM-V 2.6 with random weights in bfloat16.
#
#   bash benchmarks/gpu.sh [OUT_FOLDER]
#
# Needs this package and its dependencies, a CUDA build of torch, 17 GB of disk in TMPDIR and 20 GB of
# device memory. Writes bfloat16.json (and int4.json, where int4 runs on the device) to OUT_FOLDER, and
# prints what docs/performance.md lists:
#
#   decode    one answer, against the memory limit: measured copy bandwidth / bytes of the weights
#   first     time to the first token of a new picture of 1344 x 1344, and of a second question on it
#   streams   64 answers at once, against one
#
# A smoke test without a GPU, in a minute: DEVICE=cpu SHAPE=tiny STREAMS=4 bash benchmarks/gpu.sh
# Also: LAYERS (of the decoder; all when unset), REPEAT (5), PYTHON (python), FORMATS (bfloat16 int4).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
device=${DEVICE:-cuda} shape=${SHAPE:-2.6} streams=${STREAMS:-64} repeat=${REPEAT:-5}
python=${PYTHON:-python}
out=${1:-gpu-$(date -u +%Y%m%d-%H%M)}
mkdir -p "$out"
model=$(mktemp -d)
trap 'rm -rf "$model"' EXIT
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

if [ "$device" != cpu ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/device.txt"
fi
for format in ${FORMATS:-bfloat16 int4}; do
    quantize=()
    if [ "$format" = int4 ]; then quantize=(--quantize int4); fi
    if ! "$python" -m minicpmv bench --shape "$shape" ${LAYERS:+--layers "$LAYERS"} --folder "$model" \
        --device "$device" --dtype bfloat16 "${quantize[@]}" --streams "$streams" \
        --repeat "$repeat" --warmup 2 --json > "$out/$format.json"; then
        echo "$format: not measured (the reason is above)"
        rm -f "$out/$format.json"
        [ "$format" = int4 ] || exit 1
    fi
done

"$python" - "$out" <<'PYTHON'
import json
import sys
from pathlib import Path

from minicpmv.bench.report import as_text

for file in sorted(Path(sys.argv[1]).glob("*.json")):
    data = json.loads(file.read_text())
    values = {line["name"]: line["values"][0]["median"] for line in data["figures"]}
    limit = data["memory_limit"]
    most = limit["bytes_per_second"] / limit["bytes_per_token"]
    count = data["settings"]["streams"]
    print(f"== {file.stem}", as_text(data), "", sep="\n")
    print(f"decode / memory limit           {values['decode'] / most:.2f}   (target: at least 0.90)")
    print(f"first token, 1344 x 1344        {values['first-1344']:.3f} s (target: below 0.12)")
    second = values["second-1344"] / values["first-1344"]
    print(f"second question / first         {second:.3f}  (target: at most 0.1)")
    print(f"{count} streams / one               {values['streams'] / values['decode']:.1f}x  "
          "(target of 64: at least 25x)\n")
PYTHON
