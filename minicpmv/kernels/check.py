"""Whether a library that was just loaded computes what torch computes: tiny cases, one by one."""

import ctypes
from typing import TYPE_CHECKING

import torch

from . import gguf
from .dense import compiled_attention
from .linear import fallback_linear, kernel_linear
from .packing import PackedWeight, dequantize, pack

if TYPE_CHECKING:
    from .build import Library

# Of ggml's types: bytes of a row of 512 values, and the largest of the products with them below.
LARGEST = {
    2: (288, 1379531.6640),
    3: (320, 2423461.9615),
    6: (352, 246569.3050),
    7: (384, 870772.1023),
    8: (544, 66419568.6646),
    10: (168, 2393517.2826),
    11: (220, 29143986.6023),
    12: (288, 499764.6183),
    13: (352, 137035945.5964),
    14: (420, 60298.3487),
    20: (288, 19386178.4108),
    23: (272, 19894758.2709),
}


def difference(library: "Library") -> str | None:
    """What is wrong, as the object of "the library computes ..."; None where all agrees.

    Raises:
        AttributeError: a function is missing.
    """
    checks = (_rms_norm, _activation, _attention, _dense_attention, _few_rows, _packed_linear)
    for check in (*checks, _blocks):
        wrong = check(library)
        if wrong is not None:
            return wrong
    return None


def _rms_norm(library: "Library") -> str | None:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function = library.function(
        "rms_norm_f32", *[pointer] * 3, *[integer] * 3, ctypes.c_float, ctypes.c_int
    )
    rows, width = 2, 75
    x = torch.arange(rows * width, dtype=torch.float32).sin_().view(rows, width)
    weight = torch.linspace(-1, 2, width)
    out = torch.empty_like(x)
    pointers = [tensor.data_ptr() for tensor in (x, weight, out)]
    function(*pointers, rows, width, width, 1e-6, torch.get_num_threads())
    expected = torch.nn.functional.rms_norm(x, (width,), weight, 1e-6)
    if torch.allclose(out, expected, atol=1e-5, rtol=1e-4):
        return None
    return "another normalisation than torch"


def _activation(library: "Library") -> str | None:
    """GELU in bfloat16: the exponential, rounding, and an end that fills no vector."""
    function = library.function(
        "gelu_tanh_bf16", *[ctypes.c_void_p] * 2, ctypes.c_int64, ctypes.c_int
    )
    x = torch.linspace(-6, 6, 75, dtype=torch.bfloat16)
    out = torch.empty_like(x)
    function(x.data_ptr(), out.data_ptr(), x.numel(), torch.get_num_threads())
    expected = torch.nn.functional.gelu(x.double(), approximate="tanh")
    if torch.allclose(out.double(), expected, atol=1e-5, rtol=2**-7):
        return None
    return "another GELU than torch"


def _attention(library: "Library") -> str | None:
    """Two heads share one head of keys and values, over two blocks."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    arguments = (*[pointer] * 6, *[integer] * 6, ctypes.c_float, integer, ctypes.c_int)
    function = library.function("paged_attention_f32", *arguments)
    dim, length = 40, 45
    numbers = torch.arange(2 * 64 * dim, dtype=torch.float32).sin_()
    keys, values = numbers.view(2, 2, 32, dim)
    query = torch.linspace(-1, 1, 2 * dim).view(1, 2, dim)
    tables = torch.tensor([[1, 0]], dtype=torch.int32)
    lengths = torch.tensor([length], dtype=torch.int32)
    out = torch.empty_like(query)
    pointers = [each.data_ptr() for each in (query, keys, values, tables, lengths, out)]
    function(*pointers, 2 * dim, 2, 1, 2, 1, dim, 0.5, 0, torch.get_num_threads())
    seen_keys, seen_values = (each[[1, 0]].flatten(0, 1)[:length] for each in (keys, values))
    expected = (query[0] @ seen_keys.T * 0.5).softmax(-1) @ seen_values
    if torch.allclose(out[0], expected, atol=1e-5, rtol=1e-4):
        return None
    return "another attention than torch"


def _dense_attention(library: "Library") -> str | None:
    """More queries and keys than the kernel takes at once, and some left over."""
    query, keys, values = (
        torch.arange(3.0 * 2 * 75 * 40).sin_().view(3, 1, 75, 2, 40).transpose(2, 3)
    )
    result = compiled_attention(library, query[:, :, :43], keys, values, 0.5)
    expected = (query[:, :, :43] @ keys.mT * 0.5).softmax(-1) @ values
    if result is not None and torch.allclose(result, expected, atol=1e-5, rtol=1e-4):
        return None
    return "another attention of many tokens than torch"


def _few_rows(library: "Library") -> str | None:
    """As many rows as are taken at once and one more, whose ends fill no vector."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    arguments = (*[pointer] * 4, *[integer] * 5, ctypes.c_int)
    rows, inputs, outputs = 5, 74, 8
    numbers = torch.arange(outputs * inputs, dtype=torch.float32).sin_().view(outputs, inputs)
    for dtype, suffix in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
        function = library.function(f"few_rows_{suffix}", *arguments)
        weight, x = numbers.to(dtype), numbers[:rows].to(dtype)
        bias = torch.linspace(-1, 1, outputs).to(dtype)
        out = torch.empty(rows, outputs, dtype=dtype)
        pointers = [each.data_ptr() for each in (x, weight, bias, out)]
        function(*pointers, rows, inputs, outputs, inputs, inputs, torch.get_num_threads())
        expected = x.double() @ weight.double().T + bias.double()
        if not torch.allclose(out.double(), expected, atol=1e-4, rtol=2**-7):
            return "another product of a few rows than torch"
    return None


def _packed_linear(library: "Library") -> str | None:
    """Both formats, for one row and for several, with padding on every side."""
    outputs, inputs = 50, 75
    numbers = torch.arange(outputs * inputs).view(outputs, inputs) * 37 % 251  # 0..250
    scales = torch.linspace(0.001, 0.01, outputs * 3).view(outputs, 3)
    x = torch.arange(9 * inputs, dtype=torch.float32).sin_().view(9, inputs)
    for bits, q in ((4, numbers % 16), (8, numbers - 125)):
        packed = pack(q, scales, bits)
        for rows in (x[:1], x):
            result = kernel_linear(library, rows, packed)
            expected = fallback_linear(rows, packed)
            if not torch.allclose(result, expected, atol=1e-4, rtol=1e-4):
                return f"another product of {bits}-bit weights than torch"
    return None


def block_case(num_bytes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Five rows of 512 activations, and three of a weight in blocks whose scales are finite."""
    data = (torch.arange(3 * num_bytes) * 37 % 251).to(torch.uint8) & 0xFB
    x = torch.arange(5 * 512, dtype=torch.float32).sin_().view(5, 512)
    return x, data.view(3, num_bytes)


def _blocks(library: "Library") -> str | None:
    """Every type of ggml's: the numbers, by their largest product, and the sums of a few rows."""
    for type_id, (num_bytes, largest) in LARGEST.items():
        x, data = block_case(num_bytes)
        weight, half = torch.empty(3, 512), torch.empty(2, 512, dtype=torch.bfloat16)
        gguf.widened(library, data, type_id, weight)
        gguf.widened(library, data, type_id, half, torch.tensor([2, 0]))
        expected = x.double() @ weight.double().T
        result = gguf.few_rows(library, x, data, type_id)
        if (
            abs(float(expected.abs().max()) / largest - 1) > 1e-6
            or not torch.allclose(result.double(), expected, rtol=0, atol=1e-5 * largest)
            or not torch.equal(half, weight[[2, 0]].bfloat16())
        ):
            return f"another product of blocks of ggml's type {type_id} than numpy"
    for type_id, bits in ((2, 4), (8, 8)):
        data = block_case(LARGEST[type_id][0])[1]
        data[data == 128] = 0  # the layout has no code of -128
        packed, weight = PackedWeight.empty(bits, 3, 512), torch.empty(3, 512)
        gguf.widened(library, data, type_id, weight)
        if gguf.repacked(library, data, packed) != (True, True) or not torch.equal(
            dequantize(packed), weight
        ):
            return f"another order of {bits}-bit weights than torch"
    return None
