"""Names, shapes and dtypes of the tensors in weight files; no tensor is read."""

import math
from pathlib import Path

from .files import check_whole

Shape = tuple[int, ...]
# Shape and dtype, as safetensors writes it ("BF16"), of every tensor by name.
Headers = dict[str, tuple[Shape, str]]
STORED_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


def safetensors_headers(path: Path) -> Headers:
    """The header of a safetensors file.

    Raises:
        OSError: there is no such file, or it is damaged or cut short.
    """
    from safetensors import SafetensorError, safe_open

    check_whole(path)
    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return {
                name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
    except SafetensorError as error:
        raise OSError(
            f"{str(path)!r} is damaged or not complete ({error}). Download it again."
        ) from error


def stored_bytes(headers: Headers) -> int:
    """What the tensors take in the files."""
    return sum(math.prod(shape) * STORED_BYTES[dtype] for shape, dtype in headers.values())
