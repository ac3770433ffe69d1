#!/usr/bin/env bash
# align_nano: teach nano to describe what is there and nothing else, from its own answers (RLAIF-V).
#
#   comes out   FOLDER: pairs.jsonl, adapter/ (load it by load("nano", adapter="FOLDER/adapter")),
#               before.md and after.md with the scores, log.txt
#   needs       pip install ".[train]"; 2 GB of memory
#   takes       10 to 15 minutes of two cores, by estimate: not run whole yet
#
#   1. draw     pictures of the training split, each with the question what is on it
#   2. pairs    10 answers to each question; the scene itself says which claims hold
#   3. dpo      LoRA on pairs of a better and a worse answer, with a small SFT term
#   4. scores   of held-out scenes: descriptions (400), yes-no questions and words (200 each)
#
# Each step goes on where it was when the command is given again. NUMBER, EPOCHS, RATE, BETA, SFT and
# ITEMS change the run:  NUMBER=60 ITEMS=20 OUT=runs/try bash recipes/align_nano.sh
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-runs/align}
NUMBER=${NUMBER:-1200}
EPOCHS=${EPOCHS:-2}
RATE=${RATE:-2e-4}
BETA=${BETA:-0.1}
SFT=${SFT:-0.2}
ITEMS=${ITEMS:-400}
PYTHON=${PYTHON:-python}
export OMP_WAIT_POLICY=passive
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000

mkdir -p "$OUT"
exec > >(tee -a "$OUT/log.txt") 2>&1
step() { echo "== $(date +%H:%M:%S) $*"; }

evaluate() { # FILE MODEL: descriptions, then what must not become worse
  [ -f "$1" ] && return
  "$PYTHON" -m minicpmv evaluate scenes --model "$2" --tasks description --items "$ITEMS" > "$1.part"
  "$PYTHON" -m minicpmv evaluate scenes --model "$2" --tasks yes-no word \
    --items "$((ITEMS / 2))" >> "$1.part"
  mv "$1.part" "$1"
}

step "draw $NUMBER pictures"
[ -f "$OUT/pictures/descriptions.json" ] ||
  "$PYTHON" recipes/draw_descriptions.py "$OUT/pictures" --number "$NUMBER"

step "scores before"
evaluate "$OUT/before.md" nano

step "pairs"
[ -f "$OUT/pairs.jsonl" ] ||
  "$PYTHON" -m minicpmv train preferences "$OUT/pictures/descriptions.json" \
    --image-folder "$OUT/pictures" --output "$OUT/pairs.jsonl" --model nano --judge scene \
    --answers 10 --temperature 0.7 --max-new-tokens 96

step "dpo"
"$PYTHON" -m minicpmv train dpo --model nano --data "$OUT/pairs.jsonl" --output "$OUT/adapter" \
  --lora --lora-targets all-linear --epochs "$EPOCHS" --learning-rate "$RATE" --beta "$BETA" \
  --sft-weight "$SFT" --samples 4

step "scores after"
evaluate "$OUT/after.md" "$OUT/adapter"
step "before"; cat "$OUT/before.md"
step "after"; cat "$OUT/after.md"
