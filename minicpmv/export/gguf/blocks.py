"""The numbers of a tensor as the bytes of a GGUF file, piece by piece."""

from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch

from ...checkpoint.headers import Shape
from ...gguf.header import Outline
from ...gguf.mixture import is_quantised
from ...gguf.types import UNQUANTISED, GGMLType
from .source import NotFiniteError, Tensor

Through = Literal["F32", "F16", "BF16"]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def encoded(
    tensor: Tensor, type_: GGMLType, through: Through | None, importance: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Pieces of whole rows, uint8 (rows, bytes of a row).

    Args:
        through: the kind of file that `llama-quantize` would have read: numbers are rounded to it
            first. None: as they are.
        importance: from an importance matrix, (experts, columns), one expert for a plain matrix.

    Raises:
        ValueError: a number is not finite, or becomes so in a float16.
    """
    through = through if is_quantised(tensor.name, tensor.shape) else None
    first = 0
    for piece in tensor.read():
        rows = piece.detach().reshape(-1, piece.shape[-1])
        if type_ in UNQUANTISED:
            yield _plain(tensor.name, rows, through, type_)
            continue
        from ...gguf.quantise import quantised

        for part, columns in _by_expert(rows, first, tensor.shape, importance):
            outline = Outline(tensor.name, tuple(part.shape), type_)
            yield from quantised(partial(_numbers, tensor.name, part, through), outline, columns)
        first += len(rows)


def _by_expert(
    rows: torch.Tensor, first: int, shape: Shape, importance: np.ndarray | None
) -> Iterator[tuple[torch.Tensor, np.ndarray | None]]:
    """Rows from row `first` of a tensor on, cut where an expert ends, with their importance."""
    if importance is None or len(importance) == 1:
        yield rows, importance
        return
    height = shape[-2]
    while len(rows):
        expert, inside = divmod(first, height)
        part, rows = rows[: height - inside], rows[height - inside :]
        yield part, importance[expert]
        first += len(part)


def _numbers(
    name: str, rows: torch.Tensor, through: Through | None, start: int, stop: int
) -> np.ndarray:
    """Some rows as float32, rounded to what they go through."""
    part = rows[start:stop]
    if through is not None:
        part = part.to(DTYPES[through])
    values = part.float().numpy()
    if not np.isfinite(values).all():
        raise _not_finite(name, rows[start:stop])
    return values


def _plain(name: str, rows: torch.Tensor, through: Through | None, type_: GGMLType) -> np.ndarray:
    result = rows if through is None else rows.to(DTYPES[through])
    result = result.to(DTYPES[type_.name]).contiguous()
    stored = result.view(torch.uint8).numpy()
    if type_.name == "F32":
        is_whole = bool(np.isfinite(stored.view("<f4")).all())
    else:
        exponent = 0x7C00 if type_.name == "F16" else 0x7F80
        is_whole = not bool(((stored.view("<u2") & exponent) == exponent).any())
    if not is_whole:
        raise _not_finite(name, rows)
    return stored


def _not_finite(name: str, rows: torch.Tensor) -> ValueError:
    """What the checkpoint has, or what is too large for a float16."""
    values = rows.float()
    if not torch.isfinite(values).all():
        return NotFiniteError(f"The tensor {name!r} holds numbers that are not finite")
    return ValueError(
        f"The tensor {name!r} holds numbers that are not finite: {float(values.abs().max()):g} is "
        "more than float16 holds. Use --through BF16, and the type BF16 instead of F16."
    )
