"""The kernels compiled for lesser processors than this one, each against torch."""

import dataclasses

import pytest
import torch

from minicpmv.gguf.dequantise import dequantise
from minicpmv.gguf.types import TYPES
from minicpmv.kernels import build, check, gguf, pack
from minicpmv.kernels.linear import compiled_linear, fallback_linear
from minicpmv.kernels.processor import instruction_sets

from ..helpers.ggml import random_blocks
from ..helpers.packed_weights import random_weight

pytestmark = pytest.mark.slow  # each compiles the library

SETS = {
    "avx512": ("avx512_vnni", ()),
    "avx_vnni": ("avx_vnni", ("-mno-avx512f",)),
    "avx2": ("avx2", ("-mno-avx512f", "-mno-avxvnni")),
    "avx": ("avx", ("-mno-avx512f", "-mno-avx2")),
}


@pytest.fixture(scope="module", params=SETS)
def library(request, tmp_path_factory):
    """Compiled with fewer instructions; loading it compares every function with torch."""
    needed, flags = SETS[request.param]
    recipe = build.find_recipe()
    if recipe is None or needed not in instruction_sets():
        pytest.skip(f"needs a compiler and {needed}")
    recipe = dataclasses.replace(recipe, flags=(*recipe.flags, *flags))
    return build._compile_into(tmp_path_factory.mktemp(request.param), recipe)


@pytest.mark.parametrize("bits", [4, 8])
def test_products_are_those_of_torch(library, bits):
    for rows, outputs, inputs in [(1, 16, 32), (2, 33, 1152), (8, 100, 430), (5, 17, 333)]:
        packed = pack(*random_weight(outputs, inputs, bits), bits)
        x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
        result, expected = compiled_linear(library, x, packed), fallback_linear(x, packed)
        assert ((result - expected).abs().amax(1) <= 1e-5 * expected.std(1)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_numbers_do_not_overflow_a_group(library, bits):
    outputs, inputs = 32, 96
    top, bottom = (15, 0) if bits == 4 else (127, -127)
    x = torch.full((5, inputs), 1.0)
    x[1] = -1
    x[2, ::2] = -1
    for q in (top, bottom):
        packed = pack(torch.full((outputs, inputs), q), torch.ones(outputs, 3), bits)
        torch.testing.assert_close(compiled_linear(library, x, packed), fallback_linear(x, packed))


@pytest.mark.parametrize("kind", [kind for kind in TYPES if TYPES[kind].id in check.LARGEST])
def test_blocks_are_the_numbers_of_numpy(library, kind):
    data = random_blocks(kind, 21, 3)
    weight = torch.from_numpy(dequantise(data.numpy(), TYPES[kind]))
    out = torch.empty_like(weight)
    gguf.widened(library, data, TYPES[kind].id, out)
    assert torch.equal(out, weight)
    x = torch.randn(7, weight.shape[1], generator=torch.Generator().manual_seed(0))
    result = gguf.few_rows(library, x, data, TYPES[kind].id)
    torch.testing.assert_close(result, x @ weight.T, atol=1e-6 * float(weight.abs().sum(1).max()),
                               rtol=1e-5)  # fmt: skip
