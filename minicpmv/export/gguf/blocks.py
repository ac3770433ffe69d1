"""The numbers of a tensor as the bytes of a GGUF file, piece by piece."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from ...gguf.types import UNQUANTISED, GGMLType
from .source import Tensor

Through = Literal["F32", "F16", "BF16"]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def encoded(
    tensor: Tensor, type_: GGMLType, through: Through | None, importance: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Pieces of whole rows, uint8 (rows, bytes of a row).

    Args:
        through: the kind of file that `llama-quantize` would have read: numbers are rounded to it
            first. None: as they are.
        importance: of every column, from an importance matrix.

    Raises:
        ValueError: a number is not finite, or becomes so in a float16.
    """
    for piece in tensor.read():
        rows = piece.detach().reshape(-1, piece.shape[-1])
        _check_finite(tensor.name, rows, "")
        if through is not None and len(tensor.shape) > 1:
            rows = _rounded(tensor.name, rows, through)
        if type_ in UNQUANTISED:
            yield _plain(tensor.name, rows, type_)
        else:
            from ...gguf.quantise import quantise

            yield quantise(rows.float().numpy(), type_, importance)


def _plain(name: str, rows: torch.Tensor, type_: GGMLType) -> np.ndarray:
    rows = _rounded(name, rows, type_.name).contiguous()
    return rows.view(torch.uint8).numpy()


def _rounded(name: str, rows: torch.Tensor, kind: str) -> torch.Tensor:
    result = rows.to(DTYPES[kind])
    if kind == "F16" and rows.dtype != torch.float16:
        _check_finite(name, result, f": {float(rows.abs().max()):g} is more than float16 holds")
    return result


def _check_finite(name: str, rows: torch.Tensor, reason: str) -> None:
    if not torch.isfinite(rows).all():
        advice = "Use --through BF16, and the type BF16 instead of F16." if reason else ""
        raise ValueError(
            f"The tensor {name!r} holds numbers that are not finite{reason}. {advice}".strip()
        )
