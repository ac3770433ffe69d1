#!/usr/bin/env bash
# torch 2.13.0: torch._int_mm gives wrong sums on x86 processors without VNNI, and says nothing.
#
# torch._int_mm multiplies int8 by int8 into int32, and is what dynamic int8 quantisation on a CPU stands on. int32 holds
# any such sum of 64 products exactly, so an engineer expects exact sums everywhere. Without VNNI (AVX2 alone, AVX-512 before
# Cascade Lake) oneDNN adds pairs of products in 16 bits, which saturate: 64 times 127 x 127 is 8,160 in place of
# 1,032,256. With VNNI the sum is right.
#
# ONEDNN_MAX_CPU_ISA holds oneDNN to older instruction sets, so the script shows both on one newer processor; on one
# without VNNI the first line already shows it.
#
# Seen: AVX2: 8160. AVX2_VNNI: 1032256.
set -euo pipefail
if ! grep -qE "avx_vnni|avx512_vnni" /proc/cpuinfo; then
  echo "this processor has no VNNI: only the wrong sum can be shown"; wants_both=no
else
  wants_both=yes
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy
cat > "$work/sum.py" <<'PYTHON'
import torch

numbers = torch.full((64, 64), 127, dtype=torch.int8)
print(torch._int_mm(numbers, numbers)[0, 0].item())
PYTHON
old=$(ONEDNN_MAX_CPU_ISA=AVX2 "$work/venv/bin/python" "$work/sum.py")
echo "torch 2.13.0, oneDNN held to AVX2: $old; the sum is $((64 * 127 * 127))"
if [ "$old" = "$((64 * 127 * 127))" ]; then
  echo "CHANGED: the sum is right without VNNI"; exit 1
fi
if [ "$wants_both" = yes ]; then
  new=$("$work/venv/bin/python" "$work/sum.py")
  echo "torch 2.13.0, oneDNN as it is: $new"
  [ "$new" = "$((64 * 127 * 127))" ] || { echo "CHANGED: the sum is wrong with VNNI, too"; exit 1; }
fi
echo "as described: sums saturate without VNNI"
