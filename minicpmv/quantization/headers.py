"""The headers of quantised files, seen as those of full weights."""

import math
from collections.abc import Mapping

from ..checkpoint.headers import Headers, Shape
from ..gguf.types import TYPES, UNQUANTISED
from ..kernels.packing import packed_shape
from . import awq, compressed
from .bits import INT8, NEEDED, NESTED, OPTIONAL, STATES
from .gptq import PACKED


def as_dense(headers: Headers, shapes: Mapping[str, Shape]) -> tuple[Headers, str | None]:
    """The tensors of a file as the model has them, and what they are packed as.

    What stands beside packed weights is left out, and a packed weight gets the shape of the model's
    where it holds as many numbers. A layer that lacks a part stays as it is.

    Args:
        headers: shape and dtype of every tensor, by released name.
        shapes: of every parameter of the model, by released name.

    Returns:
        The headers, and "int4", "int8", "GPTQ", "AWQ", "W4A16", "W8A16" or None.
    """
    dense = dict(headers)
    kind = None
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.{PACKED[0]}" in headers:
            is_awq = headers[f"{layer}.{PACKED[0]}"][0][:1] == shape[1:]
            names = awq.PACKED if is_awq else PACKED
            parts, numbers = [f"{layer}.{part}" for part in names], None
            found = "AWQ" if is_awq else "GPTQ"
        elif f"{layer}.{compressed.PACKED[0]}" in headers:
            parts = [f"{layer}.{part}" for part in compressed.PACKED]
            optional = [f"{layer}.{part}" for part in compressed.OPTIONAL]
            parts += [part for part in optional if part in headers]
            words = math.prod(headers[parts[0]][0])
            numbers, found = None, "W4A16" if 8 * words <= 4 * math.prod(shape) else "W8A16"
        elif f"{layer}{NEEDED[0]}" in headers:
            parts = [f"{layer}{suffix}" for suffix in NEEDED]
            parts += [f"{layer}{s}" for s in (*NESTED, *STATES) if f"{layer}{s}" in headers]
            numbers, found = 2, "int4"
        elif f"{layer}{INT8}" in headers:
            parts = [f"{layer}{s}" for s in (INT8, OPTIONAL) if f"{layer}{s}" in headers]
            numbers, found = 1, "int8"
        elif name in headers and headers[name][1] == "U8" and len(shape) == 2:
            stored = headers[name][0]
            bits = next((bits for bits in (4, 8) if stored == packed_shape(bits, *shape)), None)
            if bits is None and _are_blocks(stored, shape):
                bits = 4  # and up to 6.6
            if bits is not None:
                kind = "int4" if bits == 4 or kind == "int4" else "int8"
                dense[name] = (shape, "F32")
            continue
        else:
            continue
        if not all(part in headers for part in parts):
            continue
        kind = found
        for part in parts:
            del dense[part]
        stored, dtype = headers.get(name, ((), ""))
        if numbers is None or math.prod(stored) * numbers == math.prod(shape):
            dense[name] = (shape, dtype)
    return dense, kind


def _are_blocks(stored: Shape, shape: Shape) -> bool:
    """Whether a matrix may be stored in blocks of ggml."""
    rows, width = shape
    kinds = (kind for kind in TYPES.values() if kind not in UNQUANTISED)
    return any(
        width % kind.block == 0 and stored == (rows, kind.row_bytes(width)) for kind in kinds
    )
