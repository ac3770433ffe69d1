#!/usr/bin/env bash
# nano: the default model, a MiniCPM-V 2.6 of 8 million parameters, from nothing to trained weights.
#
#   comes out   runs/nano: a checkpoint in the released layout, its log and its scores
#   hardware    one core of a Xeon with AMX; half a gigabyte of disk, 3 GB of memory
#   time        81 minutes of training (22 pictures/s beside other work), 2 of evaluation
#   scores      colour 99.5 %, shape 96.5 %, existence 96.0 %, counting to five 86.5 %, reading 11 %
#               (200 held-out scenes each; intervals in minicpmv/nano/README.md)
#   last run    2026-11-20, code of commit 3634e4d; with settings changed on the way (LOG.md): these are
#               the ones it ended with, and have not been run from the first step yet
#
# Interrupted, it goes on where it was: give the same command again.
#
#   bash recipes/nano.sh [FOLDER]      THREADS=n for more threads, at most as many as cores are free
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:-runs/nano}
# Threads that wait for a busy core cost more than they bring.
export OMP_NUM_THREADS=${THREADS:-1} OMP_WAIT_POLICY=passive

# The tokenizer, then both stages in one run; what the folder already holds is not done again.
#   3200 steps of 32 pictures: 102,400 pictures, the most that 90 minutes of one core allow.
#   600 of them on dense targets alone: until the tower tells shapes apart (40 % right).
#   176 tokens: 18 before the visual tokens, 64 of those, and about five questions of 18.
#   The last quarter with a falling learning rate.
python -m minicpmv train pretrain --output "$OUT" \
  --steps 3200 --dense-steps 600 --batch-size 32 --length 176 --decay 0.25

# 200 held-out scenes per task: other seeds, other words, other typefaces.
python -m minicpmv evaluate scenes --model "$OUT" --scenes 200 --seed 0 \
  --answers "$OUT/answers.jsonl" > "$OUT/scores.md"
# The same questions beside a grey picture: what guessing gives.
python -m minicpmv evaluate scenes --model "$OUT" --scenes 200 --seed 0 --blind \
  > "$OUT/scores-blind.md"
cat "$OUT/scores.md"
