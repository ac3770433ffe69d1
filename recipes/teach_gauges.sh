#!/usr/bin/env bash
# Teach nano to read seven-segment displays, which it has never seen, from 300 pictures and a JSON file.
#
#   comes out   FOLDER/adapter: LoRA of language model and vision tower, and the whole resampler;
#               FOLDER/scores.txt: displays of seed 0, which were looked at while options were
#               chosen, and of seed 1, which were not
#   needs       pip install ".[train]"; 2 GB of memory
#   runs on     CPU, at most 15 minutes of two cores; a CUDA device with the same command
#
# Interrupted, even by kill -9, it goes on where it was: give the same command again.
#
#   bash recipes/teach_gauges.sh
#   bash recipes/teach_gauges.sh --epochs 10     any option of "minicpmv train sft"
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-runs/gauges}
export OMP_WAIT_POLICY=passive
export GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000

python recipes/draw_gauges.py draw "$OUT/data"
python recipes/draw_gauges.py draw "$OUT/data" --seed 1
python -m minicpmv data check "$OUT/data/train.json"
python -m minicpmv train sft --model nano --data "$OUT/data/train.json" --output "$OUT/adapter" \
  --lora --lora-r 32 --lora-targets all-linear --lora-vision --lora-dropout 0.1 \
  --epochs 20 --learning-rate 1e-3 --weight-decay 0.05 "$@"
{
  for seed in 0 1; do
    python recipes/draw_gauges.py read "$OUT/data" --seed "$seed"
    python recipes/draw_gauges.py read "$OUT/data" --seed "$seed" --model "$OUT/adapter"
  done
} | tee "$OUT/scores.txt"
