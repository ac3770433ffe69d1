"""What stands before the weights in a GGUF file: metadata, then what each tensor is and where."""

import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .types import GGMLType
from .values import Typed, Value, encode_pairs, encode_string

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # bytes, where general.alignment says nothing
MOST_AXES = 4
LONGEST_NAME = 63  # bytes; llama.cpp keeps a name in 64 with a zero at the end


@dataclass(frozen=True)
class Outline:
    """A tensor that will be written. `shape` in torch's order, slowest axis first."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.shape[-1])

    @property
    def size(self) -> int:
        """Bytes of its blocks."""
        return self.rows * self.row_bytes


def encode_header(metadata: Mapping[str, Value], outlines: Sequence[Outline]) -> bytes:
    """Everything before the first tensor's bytes, padded to the alignment.

    Raises:
        ValueError: a name, a shape or a value that the format or llama.cpp does not take.
    """
    for name, times in Counter(outline.name for outline in outlines).items():
        if times > 1:
            raise ValueError(f"The tensor {name!r} would be written {times} times.")
    parts = [
        MAGIC,
        struct.pack("<IQQ", VERSION, len(outlines), len(metadata)),
        encode_pairs(metadata),
    ]
    alignment = alignment_of(metadata)
    place = 0
    for outline in outlines:
        parts.append(_encode_info(outline, place))
        place += padded(outline.size, alignment)
    header = b"".join(parts)
    return header + bytes(padded(len(header), alignment) - len(header))


def _encode_info(outline: Outline, offset: int) -> bytes:
    name, shape = outline.name, outline.shape
    if not 1 <= len(name.encode()) <= LONGEST_NAME:
        raise ValueError(f"The tensor's name {name!r} must have 1 to {LONGEST_NAME} bytes.")
    if not 1 <= len(shape) <= MOST_AXES or min(shape) < 1:
        raise ValueError(f"{name!r} has shape {list(shape)}; it must have 1 to {MOST_AXES} axes.")
    if shape[-1] % outline.type.block:
        raise ValueError(
            f"{name!r} has rows of {shape[-1]} values, which is no multiple of "
            f"{outline.type.name}'s {outline.type.block}."
        )
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return encode_string(name) + axes + struct.pack("<iQ", outline.type.id, offset)


def alignment_of(metadata: Mapping[str, Value]) -> int:
    """Every tensor begins at a multiple of so many bytes."""
    value = metadata.get("general.alignment", ALIGNMENT)
    number = value.value if isinstance(value, Typed) else value
    if not isinstance(number, int) or number < 8 or number & (number - 1):
        raise ValueError(f"general.alignment is {number!r}; it must be a power of two, 8 or more.")
    return number


def padded(size: int, alignment: int) -> int:
    """`size` rounded up."""
    return -(-size // alignment) * alignment


def ends(header_size: int, outlines: Sequence[Outline], alignment: int) -> list[int]:
    """Where the header ends, then where each tensor with its padding does."""
    found = [header_size]
    for outline in outlines:
        found.append(found[-1] + padded(outline.size, alignment))
    return found
