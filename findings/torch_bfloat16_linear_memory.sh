#!/usr/bin/env bash
# torch 2.13.0: on a CPU with bfloat16 instructions, a bfloat16 linear layer takes more memory with every new number of rows.
#
# A server multiplies the same weights by another number of rows in each step (a flat batch of whatever tokens there are). An
# engineer expects the memory of F.linear to be its weights and one result. In float32 that is so. In bfloat16 each new number
# of rows compiles a product that is kept: in oneDNN's cache (ONEDNN_PRIMITIVE_CACHE_CAPACITY) and once more in torch's own
# (LRU_CACHE_CAPACITY), 1,024 of each by default. Five small layers, 3.4 MB together, grow by hundreds of megabytes over 399 row counts.
# Limiting one cache leaves most of it; limiting both ends it.
#
# Seen (Zen 5, AVX512_BF16), growth in MB: float32 2. bfloat16 828. bfloat16, both caches limited to 32: 34.
set -euo pipefail
if ! grep -qE "avx512_bf16|amx_bf16" /proc/cpuinfo; then
  echo "this processor has no bfloat16 instructions: nothing to show"; exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy psutil
cat > "$work/grow.py" <<'PYTHON'
import sys

import psutil
import torch
from torch.nn import functional as F

dtype = getattr(torch, sys.argv[1])
memory = psutil.Process().memory_info
shapes = [(256, 1024), (1024, 256), (384, 768), (768, 384), (1536, 384)]
weights = [torch.randn(shape).to(dtype) for shape in shapes]
with torch.inference_mode():
    for weight in weights:
        F.linear(torch.randn(400, weight.shape[1]).to(dtype), weight)
    before = memory().rss
    for rows in range(1, 400):
        for weight in weights:
            F.linear(torch.randn(rows, weight.shape[1]).to(dtype), weight)
print((memory().rss - before) // 2**20)
PYTHON
plain=$("$work/venv/bin/python" "$work/grow.py" float32)
half=$("$work/venv/bin/python" "$work/grow.py" bfloat16)
limited=$(ONEDNN_PRIMITIVE_CACHE_CAPACITY=32 LRU_CACHE_CAPACITY=32 "$work/venv/bin/python" "$work/grow.py" bfloat16)
echo "growth in MB: float32 $plain. bfloat16 $half. bfloat16, both caches limited to 32: $limited."
[ "$half" -gt $((5 * (plain + 20))) ] || { echo "CHANGED: bfloat16 grows no more than float32"; exit 1; }
[ "$limited" -lt $((half / 3)) ] || { echo "CHANGED: limiting both caches does not help"; exit 1; }
echo "as described: products for new numbers of rows are kept"
