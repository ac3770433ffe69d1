"""A GGUF file, read without copying: names, shapes and types of its tensors, metadata, bytes.

Everything is checked against the file's size before it is used, so that a file that is cut short
or was never a GGUF gives one clear error. Shapes are in torch's order, slowest axis first, the
reverse of what the file says.
"""

import math
import mmap
import os
import weakref
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import short
from .header import ALIGNMENT, MAGIC, MOST_AXES, VERSION, Outline
from .types import BY_ID, GGMLType
from .values import Cursor, Typed, Value
from .writer import write_gguf

__all__ = ["GGUFFile", "Outline", "TensorInfo", "Typed", "Value", "write_gguf"]


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file. `offset` is in bytes from the start of the file, `size` in bytes."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    size: int


class GGUFFile:
    """An open file, memory-mapped.

    Attributes:
        metadata: numbers, strings and bools as python's; arrays of numbers as numpy's, of strings
            as lists.
        types: of the metadata by key: "u32", "str", "[f32]" for an array.
        tensors: by name, in the order of the file.

    Raises:
        OSError: there is no such file.
        ValueError: it is no GGUF file, is cut short, or has what this version cannot read.
    """

    def __init__(self, path: str | Path):
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"{short(path)} is no name of a GGUF file.")
        self.path = Path(path)
        if self.path.is_dir():
            raise IsADirectoryError(f"{str(path)!r} is a folder; name the .gguf file in it.")
        if not self.path.is_file():
            raise FileNotFoundError(f"{str(path)!r} is not there.")
        if self.path.stat().st_size < len(MAGIC):
            raise self._wrong(f"has {self.path.stat().st_size} bytes")
        self._descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._state = self._seen()
        # Copied on writing: tensors of torch on this memory need not be read only.
        with open(self._descriptor, "rb", closefd=False) as file:
            self._bytes: np.memmap[Any, Any] = np.memmap(file, np.uint8, "c")
        self.metadata: dict[str, Any] = {}
        self.types: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}
        cursor = Cursor(self._bytes.data)
        try:
            self._read(cursor)
        except EOFError:
            raise self._damaged(
                f"ends after {len(self._bytes):,} bytes, in the middle of its header"
            ) from None
        except UnicodeDecodeError as error:
            raise self._damaged(f"has a name that is not UTF-8 at byte {cursor.place:,}") from error

    def _read(self, cursor: Cursor) -> None:
        magic = bytes(cursor.data[cursor.take(4) : 4])
        if magic != MAGIC:
            raise self._wrong(f"begins with {magic!r}")
        version = cursor.number("I")
        if version == VERSION << 24:
            raise self._unknown("is a GGUF file of a big-endian machine")
        if version not in (2, VERSION):
            raise self._unknown(f"is GGUF version {version}")
        num_tensors, num_pairs = cursor.number("Q"), cursor.number("Q")
        for what, count, least in (("tensors", num_tensors, 24), ("pairs", num_pairs, 13)):
            if count * least > cursor.size - cursor.place:
                raise self._damaged(f"says that it has {count:,} {what}, more than fit into it")
        for _ in range(num_pairs):
            self._read_pair(cursor)
        infos = [self._read_info(cursor) for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"has general.alignment {alignment!r}, which is no power of two")
        self._place(infos, start=-(-cursor.place // alignment) * alignment, alignment=alignment)

    def _read_pair(self, cursor: Cursor) -> None:
        key = cursor.string()
        if key in self.metadata:
            raise self._damaged(f"has the key {short(key)} twice")
        try:
            self.metadata[key], self.types[key] = cursor.value()
        except UnicodeDecodeError as error:
            raise self._damaged(f"has a text that is not UTF-8 in {short(key)}") from error
        except ValueError as error:
            raise self._damaged(f"has {error}, in {short(key)}") from error

    def _read_info(self, cursor: Cursor) -> tuple[str, tuple[int, ...], GGMLType, int]:
        name = cursor.string()
        num_axes = cursor.number("I")
        if not 1 <= num_axes <= MOST_AXES:
            raise self._damaged(
                f"says that {short(name)} has {num_axes} axes, and 1 to 4 are possible"
            )
        shape = tuple(reversed(cursor.unpack(f"{num_axes}Q")))
        type_id, offset = cursor.number("i"), cursor.number("Q")
        if type_id not in BY_ID:
            known = ", ".join(each.name for each in BY_ID.values())
            raise self._unknown(
                f"has {short(name)} in ggml's type {type_id}",
                f"{known} can be read; convert it to one.",
            )
        return name, shape, BY_ID[type_id], offset

    def _place(
        self, infos: list[tuple[str, tuple[int, ...], GGMLType, int]], *, start: int, alignment: int
    ) -> None:
        for name, shape, type_, offset in infos:
            if name in self.tensors:
                raise self._damaged(f"has the tensor {short(name)} twice")
            if 0 in shape or shape[-1] % type_.block:
                raise self._damaged(f"has {short(name)} as {type_.name} of shape {list(shape)}")
            if offset % alignment:
                raise self._damaged(
                    f"has {short(name)} at byte {offset:,} of its data, no multiple of {alignment}"
                )
            size = math.prod(shape[:-1]) * type_.row_bytes(shape[-1])
            end = start + offset + size
            if end > len(self._bytes):
                raise self._damaged(
                    f"has {len(self._bytes):,} bytes, and {short(name)} would end at byte {end:,}"
                )
            self.tensors[name] = TensorInfo(name, shape, type_, start + offset, size)
        inside = sorted(self.tensors.values(), key=lambda info: info.offset)
        for first, second in pairwise(inside):
            if second.offset < first.offset + first.size:
                raise self._damaged(
                    f"has {short(second.name)} at byte {second.offset:,}, within "
                    f"{short(first.name)}, which ends at byte {first.offset + first.size:,}"
                )

    def _seen(self) -> tuple[int, int]:
        """Size and time of what is mapped; a file that takes its name later is another."""
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def info(self, name: str) -> TensorInfo:
        """Of one tensor.

        Raises:
            ValueError: the file has none of that name.
        """
        if name not in self.tensors:
            raise ValueError(
                f"{str(self.path)!r} has no tensor {name!r}. Get it again, or convert the model "
                "anew."
            )
        return self.tensors[name]

    def blocks(self, name: str) -> np.ndarray:
        """The stored bytes, not copied, whose pages are read when they are looked at: uint8 (rows,
        bytes of a row).

        Raises:
            OSError: the file was written to, or cut short, since it was opened: its pages are no
                longer what the header says, or not there.
        """
        info = self.info(name)
        if self._seen() != self._state:
            raise OSError(
                f"{str(self.path)!r} was changed while it was read: it had {self._state[0]:,} "
                f"bytes, and has {self._seen()[0]:,}. Wait until it is whole, and load it again."
            )
        data = np.asarray(self._bytes)[info.offset : info.offset + info.size]
        return data.reshape(-1, info.type.row_bytes(info.shape[-1]))

    def release(self, name: str) -> None:
        """Give a tensor's pages back to the system; they are read again when they are looked at."""
        info, page = self.info(name), mmap.ALLOCATIONGRANULARITY
        start, end = -(-info.offset // page) * page, (info.offset + info.size) // page * page
        mapped: Any = self._bytes._mmap  # type: ignore[attr-defined]
        if end > start and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED, start, end - start)

    def tensor(self, name: str) -> np.ndarray:
        """The numbers that the bytes stand for: float32 in the tensor's shape."""
        from .dequantise import dequantise

        info = self.info(name)
        return dequantise(self.blocks(name), info.type, info.shape)

    def _wrong(self, found: str) -> ValueError:
        return ValueError(
            f"{str(self.path)!r} is no GGUF file: it {found}, and one begins with {MAGIC!r}."
        )

    def _damaged(self, found: str) -> ValueError:
        return ValueError(
            f"{str(self.path)!r} is damaged or not complete: it {found}. Get it again."
        )

    def _unknown(
        self, found: str, known: str = "versions 2 and 3, little-endian, can be read."
    ) -> ValueError:
        return ValueError(f"{str(self.path)!r} {found}; {known}")
