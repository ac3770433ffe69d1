#!/usr/bin/env bash
# Pillow 13.0.0 and 12.3.0 resize the same picture to different pixels.
#
# Image.resize works in two passes, along the width and along the height, and rounds to 8 bits between them. Up to
# Pillow 12.3.0 the width comes first, always. Pillow 13.0.0 begins with the height for some tall pictures that become
# smaller. One picture of noise, 3 x 300 -> 2 x 100 and others, bicubic: up to a few grey levels of difference. Two calls,
# the width in the first and the height in the second, give equal pixels in both versions.
#
# Seen: 12.3.0 and 13.0.0 differ in "one call", agree in "two calls".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/resize.py" <<'PYTHON'
import hashlib
import random

from PIL import Image

one, two = hashlib.sha256(), hashlib.sha256()
for seed in range(40):
    rng = random.Random(seed)
    width, height = rng.randint(40, 300), rng.randint(300, 900)
    image = Image.frombytes("RGB", (width, height), rng.randbytes(3 * width * height))
    size = max(1, int(width * rng.uniform(0.2, 1.5))), int(height * rng.uniform(0.1, 0.9))
    one.update(image.resize(size, Image.Resampling.BICUBIC).tobytes())
    first = image.resize((size[0], height), Image.Resampling.BICUBIC)
    two.update(first.resize(size, Image.Resampling.BICUBIC).tobytes())
print("one", one.hexdigest()[:16])
print("two", two.hexdigest()[:16])
PYTHON
for version in 12.3.0 13.0.0; do
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/$version" "pillow==$version"
  PYTHONPATH="$work/$version" python3 "$work/resize.py" > "$work/$version.txt"
  echo "Pillow $version: $(tr '\n' ' ' < "$work/$version.txt")"
done
if [ "$(grep one "$work/12.3.0.txt")" = "$(grep one "$work/13.0.0.txt")" ]; then
  echo "CHANGED: one call gives the same pixels in both versions"; exit 1
fi
if [ "$(grep two "$work/12.3.0.txt")" != "$(grep two "$work/13.0.0.txt")" ]; then
  echo "CHANGED: two calls no longer give the same pixels in both versions"; exit 1
fi
echo "as described: the passes of one call are ordered differently"
