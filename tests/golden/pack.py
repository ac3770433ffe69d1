"""Weights of the golden checkpoints, a sixth smaller in the repository, without losing a bit.

Random float32 numbers hardly compress; their sign and exponent bytes do, once they stand together.

    python tests/golden/pack.py FOLDER ...      model.safetensors -> model.safetensors.packed
"""

import sys
import zlib
from pathlib import Path

PACKED = "model.safetensors.packed"


def pack(folder: Path) -> None:
    """Write `model.safetensors.packed` beside `model.safetensors`."""
    raw = (folder / "model.safetensors").read_bytes()
    planes = b"".join(raw[byte::4] for byte in range(4))
    (folder / PACKED).write_bytes(zlib.compress(planes, 9))


def unpack(folder: Path) -> None:
    """Write `model.safetensors` (git ignores it) beside `model.safetensors.packed`, if missing."""
    target = folder / "model.safetensors"
    if target.exists():
        return
    planes = zlib.decompress((folder / PACKED).read_bytes())
    raw = bytearray(len(planes))
    start = 0
    for byte in range(4):
        length = (len(planes) - byte + 3) // 4
        raw[byte::4] = planes[start : start + length]
        start += length
    # Under another name first: tests may run side by side.
    temporary = target.with_suffix(f".{id(raw)}")
    temporary.write_bytes(raw)
    temporary.replace(target)


def unpack_all() -> None:
    """Unpack every golden checkpoint."""
    for packed in Path(__file__).parent.rglob(PACKED):
        unpack(packed.parent)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        pack(Path(name))
