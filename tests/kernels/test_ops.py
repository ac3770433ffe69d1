"""Compiled operations against torch, over shapes; without a library both are torch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from minicpmv import kernels
from minicpmv.kernels import ops

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module", autouse=True)
def library():
    return kernels.library()


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(0, 40), width=st.integers(1, 300))
def test_rms_norm_is_that_of_transformers(dtype, rows, width):
    x, weight = random(rows, width, dtype=dtype), random(width, dtype=dtype, seed=1)
    reference = LlamaRMSNorm(width, eps=1e-5).to(dtype)
    reference.weight.data.copy_(weight)
    with torch.no_grad():
        expected = reference(x)
    # In bfloat16 another order of the sum may round the other way: one step of 8 bits.
    rtol = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5), expected, rtol=rtol, atol=1e-6)


def test_rms_norm_of_a_part_of_a_wider_tensor():
    wide, weight = random(5, 300), random(100)
    part = wide[:, 100:200]
    assert torch.equal(
        ops.rms_norm(part, weight, 1e-6), ops.rms_norm(part.contiguous(), weight, 1e-6)
    )


def test_gradients_pass_through_rms_norm():
    x = random(2, 40).requires_grad_()
    ops.rms_norm(x, torch.ones(40), 1e-6).sum().backward()
    assert x.grad is not None
