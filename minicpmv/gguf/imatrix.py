"""Importance matrices: how much the columns of each matrix were used, summed over many tokens.

Two forms of file are read, and the newer one is written: GGUF with the tensors `NAME.in_sum2` (sums
of squares of the inputs) and `NAME.counts` (tokens), one row per expert; and the older `.dat`,
which keeps means times a number of calls.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .container import GGUFFile
from .header import Outline
from .types import F32
from .values import Cursor, Typed, Value
from .writer import write_gguf

_SQUARES, _SUMS, _COUNTS = ".in_sum2", ".in_sum", ".counts"
_MAGIC = b"GGUF"


@dataclass(frozen=True)
class Entry:
    """Of one matrix.

    Fields:
        squares: sums of the squares of its inputs, float32 (experts, columns); one expert for a
            plain matrix.
        counts: tokens that were summed, float32 (experts,).
        sums: of the inputs themselves, which llama.cpp shows statistics of; may be missing.
    """

    squares: np.ndarray
    counts: np.ndarray
    sums: np.ndarray | None = None

    def importance(self) -> np.ndarray:
        """Mean squares; ones for an expert that no token came to. (experts, columns), or
        (columns,) for one."""
        used = np.broadcast_to(self.counts[:, None] > 0, self.squares.shape)
        counts = np.maximum(self.counts, 1)[:, None].astype(np.float32)
        found = np.where(used, self.squares / counts, np.float32(1))
        return found[0] if len(found) == 1 else found


@dataclass
class ImportanceMatrix:
    """What a file holds.

    Attributes:
        entries: by the name of the tensor in a GGUF model: "blk.0.attn_q.weight".
        datasets: names of what it was made from; chunk_size: tokens of a piece of text;
            chunk_count: how many pieces there were.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    chunk_count: int = 0
    chunk_size: int = 0

    @classmethod
    def read(cls, path: str | Path) -> "ImportanceMatrix":
        """Of a file in either form.

        Raises:
            OSError: there is none.
            ValueError: it is something else, or damaged, or has numbers that are not finite.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{str(path)!r} is not there; an importance matrix is a file.")
        with open(path, "rb") as file:
            is_gguf = file.read(4) == _MAGIC
        found = _read_gguf(path) if is_gguf else _read_legacy(path)
        for name, entry in found.entries.items():
            if not np.isfinite(entry.squares).all() or not np.isfinite(entry.counts).all():
                raise ValueError(f"{str(path)!r} has numbers that are not finite for {name!r}.")
        return found

    def write(self, path: str | Path) -> None:
        """In the form of GGUF, as `llama-quantize --imatrix` takes it."""
        arrays: dict[str, np.ndarray] = {}
        for name in sorted(self.entries):
            entry = self.entries[name]
            arrays[name + _SQUARES] = entry.squares
            arrays[name + _COUNTS] = entry.counts[:, None]
            if entry.sums is not None:
                arrays[name + _SUMS] = entry.sums
        metadata: dict[str, Value] = {
            "general.type": "imatrix",
            "imatrix.datasets": Typed(self.datasets, "str"),
            "imatrix.chunk_count": self.chunk_count,
            "imatrix.chunk_size": self.chunk_size,
        }
        outlines = [Outline(name, array.shape, F32) for name, array in arrays.items()]

        def read(outline: Outline) -> np.ndarray:
            array = np.ascontiguousarray(arrays[outline.name], np.float32)
            return array.view(np.uint8).reshape(outline.rows, outline.row_bytes)

        write_gguf(path, metadata, outlines, read)

    def metadata(self, path: str | Path) -> dict[str, Value]:
        """The pairs that `llama-quantize` writes into a model that was made with this file."""
        found: dict[str, Value] = {"quantize.imatrix.file": str(path)}
        if self.datasets:
            found["quantize.imatrix.dataset"] = self.datasets[0]
        found["quantize.imatrix.entries_count"] = len(self.entries)
        if self.chunk_count > 0:
            found["quantize.imatrix.chunks_count"] = self.chunk_count
        return found


def read_imatrix(path: str | Path) -> dict[str, np.ndarray]:
    """The importance of every tensor that a file knows: (columns,), or (experts, columns)."""
    entries = ImportanceMatrix.read(path).entries
    return {name: entry.importance() for name, entry in entries.items()}


def importance_of(
    matrix: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    """Of one tensor: (experts, columns); None where the file does not know it.

    Raises:
        ValueError: the file was made from a model of another shape.
    """
    found = matrix.get(name)
    if found is None:
        return None
    experts = int(np.prod(shape[:-2]))  # 1 for a plain matrix
    if found.size != experts * shape[-1]:
        if name == "token_embd.weight":
            return None  # of a tied head; llama-quantize goes on without it, too
        raise ValueError(
            f"The importance matrix has {found.size} numbers for {name!r}, which has "
            f"{experts * shape[-1]} columns; it was made from another model."
        )
    return found.reshape(experts, shape[-1])


def _read_gguf(path: Path) -> ImportanceMatrix:
    file = GGUFFile(path)
    names = [name.removesuffix(_SQUARES) for name in file.tensors if name.endswith(_SQUARES)]
    if not names or "imatrix.chunk_count" not in file.metadata:
        raise ValueError(
            f"{str(path)!r} is a GGUF file and no importance matrix: it has no imatrix.chunk_count "
            f"or no tensors named {_SQUARES}."
        )
    found = ImportanceMatrix(
        datasets=list(file.metadata.get("imatrix.datasets", [])),
        chunk_count=int(file.metadata["imatrix.chunk_count"]),
        chunk_size=int(file.metadata.get("imatrix.chunk_size", 0)),
    )
    for name in names:
        counts = file.tensor(name + _COUNTS).reshape(-1)
        squares = file.tensor(name + _SQUARES)
        if squares.size % len(counts):
            raise ValueError(
                f"{str(path)!r} has {squares.size} sums and {len(counts)} counts for {name!r}."
            )
        sums = file.tensor(name + _SUMS) if name + _SUMS in file.tensors else None
        squares = squares.reshape(len(counts), -1)
        found.entries[name] = Entry(
            squares, counts, None if sums is None else sums.reshape(squares.shape)
        )
    return found


def _read_legacy(path: Path) -> ImportanceMatrix:
    cursor = Cursor(path.read_bytes())
    found = ImportanceMatrix()
    try:
        number = cursor.number("i")
        if not 1 <= number <= cursor.size // 12:
            raise EOFError
        for _ in range(number):
            name, calls, values = _legacy_entry(cursor)
            # Kept as means times calls: the same numbers come out with calls for the count.
            counts = np.array([max(calls, 1)], np.float32)
            found.entries[name] = Entry(values.reshape(1, -1), counts)
        if cursor.place < cursor.size:
            found.chunk_count = cursor.number("i")
            length = cursor.number("i")
            start = cursor.take(length)
            found.datasets = [bytes(cursor.data[start : start + length]).decode("utf-8")]
    except (EOFError, UnicodeDecodeError, struct.error):
        raise ValueError(
            f"{str(path)!r} is no importance matrix, or is cut short (byte {cursor.place:,} of "
            f"{cursor.size:,}). It must be one of llama-imatrix or minicpmv imatrix."
        ) from None
    return found


def _legacy_entry(cursor: Cursor) -> tuple[str, int, np.ndarray]:
    length = cursor.number("i")
    if not 0 < length <= cursor.size:
        raise EOFError
    start = cursor.take(length)
    name = bytes(cursor.data[start : start + length]).decode("utf-8")
    calls, number = cursor.unpack("ii")
    if number < 1:
        raise EOFError
    return name, calls, np.frombuffer(cursor.data, "<f4", number, cursor.take(4 * number)).copy()
