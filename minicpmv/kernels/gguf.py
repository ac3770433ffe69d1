"""Products with weights in the blocks of a GGUF file, as they lie in the file.

A few rows are multiplied by a kernel that brings a block at a time to float32. For many rows a
tile of the weight is widened, small enough for the cache, and multiplied by the fastest library
that PyTorch has here; the whole matrix is never widened. Activations are not rounded: the product
is that of the numbers that the blocks stand for. In bfloat16, where the processor multiplies it,
tiles are rounded to bfloat16, as the whole weight would be if it were widened while loading.
"""

import ctypes
import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .build import FunctionByDtype, Library
from .packing import PackedWeight
from .processor import instruction_sets
from .products import onednn_linear

_POINTER, _INTEGER, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_linear = FunctionByDtype(
    "gguf_linear",
    (
        *(_POINTER, _INTEGER, _INTEGER, _INTEGER),  # x, its stride, rows, width
        *(_POINTER, _INT, _INTEGER, _POINTER),  # blocks, type, outputs, bias
        *(_POINTER, _INTEGER, _INT),  # result, its stride, threads
    ),
    _INT,
)
_widen = FunctionByDtype(
    "gguf_widen", (_POINTER, _INT, _POINTER, _INTEGER, _INTEGER, _POINTER, _INT), _INT
)
MOST_ROWS = 8  # for the kernel
TILE_WEIGHTS = 1 << 21  # of one tile
_MIN_OUTPUTS = 64  # of one tile
_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16"))
_local = threading.local()
Widen = Callable[[int, int, Tensor], None]  # writes outputs `start` to `end` as numbers


def few_rows(
    library: Library, x: Tensor, data: Tensor, type_id: int, bias: Tensor | None = None
) -> Tensor:
    """The linear layer by the kernel; every row costs another pass over the weights' numbers.

    Args:
        x: (rows, in_features), float32 or bfloat16.
        data: uint8 (out_features, bytes of a row), contiguous.
        type_id: ggml's.
        bias: (out_features,), added in float32.

    Raises:
        MemoryError: there is none for the activations in float32.
    """
    if x.stride(1) != 1:
        x = x.contiguous()
    if bias is not None:
        bias = bias.detach().to(torch.float32).contiguous()
    result = torch.empty(x.shape[0], data.shape[0], dtype=x.dtype)
    failed = _linear(library)[x.dtype](
        x.data_ptr(), x.stride(0), x.shape[0], x.shape[1], data.data_ptr(), type_id,
        data.shape[0], None if bias is None else bias.data_ptr(), result.data_ptr(),
        result.stride(0), torch.get_num_threads(),
    )  # fmt: skip
    _check(failed, type_id, x.shape)
    return result


def widened(
    library: Library,
    data: Tensor,
    type_id: int,
    out: Tensor,
    index: Tensor | None = None,
) -> None:
    """Write rows as numbers: those of `index`, or all.

    Args:
        out: float32 or bfloat16 (rows, in_features), contiguous; rounded to the nearest.
        index: int64 (rows,), within the weight.
    """
    if index is not None:
        index = index.contiguous()
    failed = _widen(library)[out.dtype](
        data.data_ptr(), type_id, None if index is None else index.data_ptr(), out.shape[0],
        out.shape[1], out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    _check(failed, type_id, out.shape)


def repacked(library: Library, data: Tensor, packed: PackedWeight) -> tuple[bool, bool]:
    """Bring blocks of Q4_0 or Q8_0 to the layout of `packed`, which holds them without a change.

    Args:
        data: uint8 (out_features, bytes of a row), contiguous.

    Returns:
        Whether all scales are finite, and whether all codes are such as the layout has: -128 is
        none.
    """
    function = library.function("gguf_repack", _POINTER, _INT, _INTEGER, _INTEGER, _POINTER, _INT)
    function.restype = _INT
    wrong = function(
        data.data_ptr(), {4: 2, 8: 8}[packed.bits], packed.out_features, packed.num_groups,
        packed.data.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return not wrong & 1, not wrong & 2


def by_tiles(x: Tensor, num_outputs: int, widen: Widen, bias: Tensor | None = None) -> Tensor:
    """The linear layer for many rows.

    Args:
        x: (rows, in_features), any floating-point dtype.
        widen: writes some outputs' weights to a tensor (outputs, in_features).
        bias: (out_features,).
    """
    dtype = tile_dtype(x.dtype)
    inputs, width = x.to(dtype), x.shape[1]
    result = torch.empty(x.shape[0], num_outputs, dtype=x.dtype)
    step = max(_MIN_OUTPUTS, TILE_WEIGHTS // width)
    buffer = _buffer(min(step, num_outputs) * width, dtype)
    if bias is not None:
        bias = bias.to(dtype)
    for start in range(0, num_outputs, step):
        end = min(start + step, num_outputs)
        tile = buffer[: (end - start) * width].view(end - start, width)
        widen(start, end, tile)
        part = None if bias is None else bias[start:end]
        product = onednn_linear(inputs, tile, part)
        result[:, start:end] = F.linear(inputs, tile, part) if product is None else product
    return result


def tile_dtype(dtype: torch.dtype) -> torch.dtype:
    """What tiles are multiplied in: bfloat16 where it is asked for and the processor has it."""
    is_native = dtype == torch.bfloat16 and not _BFLOAT16.isdisjoint(instruction_sets())
    return torch.bfloat16 if is_native else torch.float32


def takes(data: Tensor) -> bool:
    """Whether the library's functions take a weight's bytes as they lie."""
    return data.is_cpu and data.is_contiguous()


def _buffer(size: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread: fresh memory from the system is slower than the product."""
    found: Tensor | None = getattr(_local, str(dtype), None)
    if found is None or found.numel() < size:
        with torch.inference_mode(False):  # one made inside could not be written to outside
            found = torch.empty(max(TILE_WEIGHTS, size), dtype=dtype)
        setattr(_local, str(dtype), found)
    return found[:size]


def _check(failed: int, type_id: int, shape: torch.Size) -> None:
    if failed == 1:
        raise MemoryError(f"No memory for activations of shape {tuple(shape)}. Use smaller pieces.")
    assert not failed, f"ggml's type {type_id} has no kernel"
