#!/usr/bin/env bash
# nano: the default model, a MiniCPM-V 2.6 in small, from nothing to trained weights and their scores.
#
#   comes out   FOLDER: a checkpoint in the released layout, plan.json, log.txt, metrics.jsonl,
#               losses.png, samples.md, scores.md, answers.jsonl and failures.png
#   needs       pip install ".[train]"; half a gigabyte of disk, 5 GB of memory
#   runs on     CPU (bfloat16: best with AMX), one CUDA device (the same command), or several
#               (PROCESSES=n: torchrun)
#
# Interrupted, even by kill -9, it goes on where it was: give the same command again. The time, the
# scores and the machine of the last run are in minicpmv/nano/README.md, what did not work in LOG.md.
#
#   bash recipes/nano.sh                         the steps of the recipe: some six hours of two cores
#   bash recipes/nano.sh --minutes 20            as many steps as fit in 20 minutes
#   bash recipes/nano.sh --size small --batch 8  any option of "minicpmv train pretrain"
#   OUT=runs/mine bash recipes/nano.sh           another folder than runs/nano
#
# Typefaces: it prints with those that the machine has. The shipped weights saw 23 font packages of
# Debian (scenes/fonts.py lists them); MINICPMV_FONTS names folders with more of them.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-runs/nano}
# Threads that wait for a busy core cost more than they bring.
export OMP_WAIT_POLICY=passive
# Keep memory between steps, in large pages: handing it back and asking for it again cost a quarter of
# the time on CPU (only glibc reads this).
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000

if [ "${PROCESSES:-1}" -gt 1 ]; then
  torchrun --standalone --nproc-per-node "$PROCESSES" -m minicpmv train pretrain --output "$OUT" "$@"
else
  python -m minicpmv train pretrain --output "$OUT" "$@"
fi

# Twelve tasks of 200 held-out items each: other seeds, words, typefaces and layouts. Then the same
# questions beside a grey picture, and beside the picture of another item: what guessing gives.
python -m minicpmv evaluate scenes --model "$OUT" --answers "$OUT/answers.jsonl" \
  --failures "$OUT/failures.png" > "$OUT/scores.md"
python -m minicpmv evaluate scenes --model "$OUT" --blind > "$OUT/scores-blind.md"
python -m minicpmv evaluate scenes --model "$OUT" --swap > "$OUT/scores-swap.md"
cat "$OUT/scores.md"
