"""Numbers to the blocks that are stored: byte for byte what ggml writes.

F32, F16 and BF16 need numpy alone; all others numba, the extra `gguf`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np

from ..devices import num_cores
from .header import Outline
from .types import UNQUANTISED, GGMLType

_PIECE = 1 << 20  # values that a thread takes at a time
_BITE = 1 << 17  # of them quantised at a time, so that they stay in its cache
# Where in a block the float16 stand that must be finite.
_HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q5_0": (0,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


def quantise(
    rows: np.ndarray,
    type_: GGMLType,
    importance: np.ndarray | None = None,
    *,
    name: str = "",
    first_row: int = 0,
) -> np.ndarray:
    """The blocks of some rows, on all cores.

    Args:
        rows: float32 (rows, width).
        importance: of the columns, float32 (width,), from an importance matrix.
        name, first_row: for errors: the tensor, and which of its rows comes first here.

    Returns:
        uint8 (rows, bytes of a row).

    Raises:
        ValueError: a value is not finite or is too large for the type, or shapes do not suit.
        ImportError: numba is missing.
    """
    shape = (len(rows), rows.shape[1])
    outline = Outline(name, shape, type_)
    pieces = quantised(
        lambda start, stop: rows[start:stop], outline, importance, first_row=first_row
    )
    return np.concatenate([np.empty((0, outline.row_bytes), np.uint8), *pieces])


def quantised(
    read: Callable[[int, int], np.ndarray],
    outline: Outline,
    importance: np.ndarray | None = None,
    *,
    first_row: int = 0,
) -> Iterator[np.ndarray]:
    """A tensor's blocks, in pieces of some rows, in little memory and on all cores.

    Args:
        read: gives rows start to stop, float32 (stop - start, width); called from several threads.
        importance: float32 (width,), or (experts, width) for experts stacked on the slowest axis.

    Yields:
        uint8 (some rows, bytes of a row), for `write_gguf`.
    """
    width, rows = outline.shape[-1], outline.rows
    outline.type.row_bytes(width)
    groups = _importance_groups(importance, outline)
    encode = _encoder(outline.type, importance is not None)
    size = max(1, min(_PIECE // width, -(-rows // (4 * num_cores()))))
    work = partial(_piece, read, outline, groups, encode, first_row)
    bounds = _bounds(rows, rows // len(groups), size)
    if rows * width <= _BITE or num_cores() == 1:
        yield from (work(start, stop) for start, stop in bounds)
        return
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(num_cores()) as pool:
        try:
            for start, stop in bounds:
                waiting.append(pool.submit(work, start, stop))
                if len(waiting) > 2 * num_cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _bounds(rows: int, group: int, size: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most `size` rows, none over the border of a group."""
    for first in range(0, rows, group):
        for start in range(first, first + group, size):
            yield start, min(start + size, first + group)


def _importance_groups(importance: np.ndarray | None, outline: Outline) -> list[np.ndarray | None]:
    if importance is None:
        return [None]
    groups = np.ascontiguousarray(np.atleast_2d(importance), np.float32)
    experts = int(np.prod(outline.shape[:-2]))
    if groups.shape not in ((1, outline.shape[-1]), (experts, outline.shape[-1])):
        raise ValueError(
            f"{outline.name!r} has rows of {outline.shape[-1]} values, and its importance is "
            f"{list(np.shape(importance))}; one number per column was expected."
        )
    if not np.isfinite(groups).all():
        raise ValueError(f"The importance of {outline.name!r} has values that are not finite.")
    return list(groups)


def _piece(
    read: Callable[[int, int], np.ndarray],
    outline: Outline,
    groups: list[np.ndarray | None],
    encode: "Encoder",
    first_row: int,
    start: int,
    stop: int,
) -> np.ndarray:
    rows = np.ascontiguousarray(read(start, stop), np.float32)
    width = outline.shape[-1]
    if rows.shape != (stop - start, width):
        raise ValueError(
            f"{outline.name!r}: rows {start} to {stop} came as {list(rows.shape)}, expected "
            f"{[stop - start, width]}."
        )
    importance = groups[start * len(groups) // outline.rows]
    out = np.empty((stop - start, outline.row_bytes), np.uint8)
    bite = max(1, _BITE // width)
    for first in range(0, len(rows), bite):
        x, blocks = rows[first : first + bite], out[first : first + bite]
        _check_finite(x, outline, first_row + start + first)
        encode(x, blocks, importance)
        _check_blocks(x, blocks, outline, first_row + start + first)
    return out


def _check_finite(x: np.ndarray, outline: Outline, first_row: int) -> None:
    finite = np.isfinite(x)
    if not finite.all():
        row, column = (int(place) for place in np.argwhere(~finite)[0])
        raise ValueError(
            f"{outline.name!r} has {x[row, column]} in row {first_row + row}, column {column}; "
            f"{outline.type.name} needs finite numbers. Repair the checkpoint."
        )


def _check_blocks(x: np.ndarray, blocks: np.ndarray, outline: Outline, first_row: int) -> None:
    """Refuse what became infinite: a float16, or a scale that is stored as one."""
    type_ = outline.type
    if type_.name == "F32":
        return
    if type_.name in ("F16", "BF16"):
        exponent = 0x7C00 if type_.name == "F16" else 0x7F80
        bad = ((blocks.view("<u2") & exponent) == exponent).any(axis=1)
    else:
        whole = blocks.reshape(len(blocks), -1, type_.block_bytes)
        bad = np.zeros(len(blocks), bool)
        for place in _HALVES[type_.name]:
            bad |= ((whole[:, :, place + 1] & 0x7C) == 0x7C).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{outline.name!r} has {np.abs(x[row]).max():.3g} in row {first_row + row}, which is "
            f"too large for {type_.name}. Repair the checkpoint, or choose BF16 or F32."
        )


Encoder = Callable[[np.ndarray, np.ndarray, np.ndarray | None], None]


def _encoder(type_: GGMLType, has_importance: bool) -> Encoder:
    """What fills blocks (rows, row_bytes) from rows (rows, width) and importance (width,)."""
    if type_ in UNQUANTISED:
        return _PLAIN[type_.name]
    from .blocks.table import kernel

    compiled = kernel(type_.name, has_importance)

    def encode(x: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None) -> None:
        compiled(x.reshape(-1), importance, blocks.reshape(-1))

    return encode


def _f32(x: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None) -> None:
    blocks.view("<f4")[...] = x


def _f16(x: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None) -> None:
    with np.errstate(over="ignore", under="ignore"):
        blocks.view("<f2")[...] = x


def _bf16(x: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None) -> None:
    bits = x.view(np.uint32)
    blocks.view("<u2")[...] = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16


_PLAIN: dict[str, Encoder] = {"F32": _f32, "F16": _f16, "BF16": _bf16}
