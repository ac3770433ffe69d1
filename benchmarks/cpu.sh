#!/usr/bin/env bash
# Measure what docs/performance.md lists for a processor: this build beside an older one and llama.cpp.
#
#   bash benchmarks/cpu.sh OLD_CHECKOUT GGUF_FOLDER OUT_FOLDER [ROW ...]
#
# OLD_CHECKOUT is a checkout of this package (git worktree add ../old cfc5f62), GGUF_FOLDER what
# `python benchmarks/make_gguf.py GGUF_FOLDER --types Q4_0 Q4_K_M` made; LLAMA_CPP_DIR names the folder
# of llama.cpp's programs. The machine should be idle. Random models go to MODELS (a folder of its
# own, kept; 25 GB), so that a second call finds them. Rows, all when none is named:
#
#   encode-old    one slice, beside the older build
#   prefill-old   512 tokens with 4-bit weights, beside the older build with quantize="int4"
#   q4_0 q4_k_m   everything beside llama.cpp, with as many layers as the GGUF files
#   memory        peak memory of loading full weights as int4
#   nano          start, warm answers and 64 questions, beside the older build
#
# Also: LAYERS (4) of the rows beside the older build, REPEAT (3), THREADS (those of torch), PYTHON.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
old=$(cd "$1" && pwd) gguf=$(cd "$2" && pwd)
mkdir -p "$3" && out=$(cd "$3" && pwd)
shift 3
rows=${*:-encode-old prefill-old q4_0 q4_k_m memory nano}
python=${PYTHON:-python} repeat=${REPEAT:-3} layers=${LAYERS:-4}
models=${MODELS:-$out/models}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

bench() {  # NAME WORD ...: the report as text on the terminal, and as JSON in a file
    local name=$1
    shift
    "$python" -m minicpmv bench "$@" --repeat "$repeat" ${THREADS:+--threads "$THREADS"} --json > "$out/$name.json"
    "$python" -c 'import json, sys; from minicpmv.bench.report import as_text
print("==", sys.argv[1]); print(as_text(json.load(open(sys.argv[2]))), end="\n\n")' "$name" "$out/$name.json"
}
few=(--shape 2.6 --layers "$layers" --folder "$models/2.6-$layers-layers")
whole=$models/2.6-int4
packed() {  # the whole model in 4 bits, packed once
    if [ ! -d "$whole" ]; then
        bench memory --shape 2.6 --folder "$models/2.6" --quantize int4 --only prefill
        "$python" -m minicpmv quantize "$models/2.6" "$whole"
    fi
}

for row in $rows; do
    case $row in
    encode-old) bench encode-old "${few[@]}" --only encode --against "$old" ;;
    prefill-old) bench prefill-old "${few[@]}" --quantize int4 --only prefill --against "$old" ;;
    q4_0) packed && bench q4_0 "$whole" --against llama.cpp "$gguf/model-q4_0.gguf" "$gguf/mmproj-f16.gguf" ;;
    q4_k_m)
        packed
        bench q4_k_m "$whole" --only decode --against llama.cpp "$gguf/model-q4_k_m.gguf" "$gguf/mmproj-f16.gguf"
        ;;
    memory) bench memory --shape 2.6 --folder "$models/2.6" --quantize int4 --only prefill ;;
    nano) "$python" "$here/benchmarks/ask.py" "$old" --runs "$repeat" | tee "$out/nano.txt" ;;
    *) echo "unknown row $row" >&2 && exit 2 ;;
    esac
done
