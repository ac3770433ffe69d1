"""Compiled operations against torch, over shapes; without a library both are torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

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


def by_hand(query, keys, values, tables, lengths, scaling, window):
    """One row and head at a time, in float64."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // keys.shape[2]
    for row, length in enumerate(lengths.tolist()):
        first = max(0, length - window) if window else 0
        for head in range(query.shape[1]) if length else ():
            k, v = (
                part[tables[row].long()].flatten(0, 1)[first:length, head // group].double()
                for part in (keys, values)
            )
            weights = (k @ query[row, head].double() * scaling).softmax(0)
            out[row, head] = weights @ v
    return out


@st.composite
def contexts(draw):
    return {
        "lengths": draw(st.lists(st.integers(0, 700), min_size=1, max_size=4)),
        "kv_heads": draw(st.integers(1, 3)),
        "group": draw(st.integers(1, 19)),
        "dim": draw(st.sampled_from([8, 24, 64, 72, 128, 256])),
        "window": draw(st.none() | st.integers(1, 600)),
    }


def make_context(lengths, kv_heads, group, dim, dtype):
    rows, width = len(lengths), -(-max(*lengths, 1) // 32)
    num_blocks = rows * width + 1
    keys, values = (random(num_blocks, 32, kv_heads, dim, dtype=dtype, seed=i) for i in (1, 2))
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(3))
    tables = order[: rows * width].view(rows, width).int()
    query = random(rows, kv_heads * group, dim, dtype=dtype)
    for row, length in enumerate(lengths):  # what was never written is anything
        for token in range(length, width * 32):
            keys[tables[row, token // 32], token % 32] = torch.nan
            values[tables[row, token // 32], token % 32] = torch.nan
    return query, keys, values, tables, torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attention", [ops.paged_attention, ops._fallback_attention])
@settings(max_examples=25)
@given(shape=contexts())
def test_attention_over_blocks_is_attention(attention, dtype, shape):
    window = shape.pop("window")
    context = make_context(**shape, dtype=dtype)
    scaling = shape["dim"] ** -0.5
    result = attention(*context, scaling, window)
    assert result.dtype == dtype
    expected = by_hand(*context, scaling, window)
    rtol, atol = (1e-5, 2e-6) if dtype == torch.float32 else (2**-7, 1e-6)
    torch.testing.assert_close(result.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_attention_of_a_row_does_not_depend_on_others(threads):
    context = make_context([700, 3, 513, 0], 2, 7, 64, torch.float32)
    query, keys, values, tables, lengths = context
    before = torch.get_num_threads()
    together = ops.paged_attention(*context, 0.1)
    try:
        torch.set_num_threads(threads)
        for row in range(4):
            part = slice(row, row + 1)
            alone = ops.paged_attention(query[part], keys, values, tables[part], lengths[part], 0.1)
            if kernels.built() is not None:
                assert torch.equal(alone[0], together[row])
    finally:
        torch.set_num_threads(before)


def test_attention_takes_heads_that_are_a_part_of_a_wider_tensor():
    query, *context = make_context([40, 50], 2, 3, 64, torch.float32)
    wide = torch.cat([query, query, query], dim=1)
    expected = ops.paged_attention(query, *context, 0.1)
    assert torch.equal(ops.paged_attention(wide[:, :6], *context, 0.1), expected)


def test_infinite_scores_are_undefined_and_large_ones_are_not():
    query, *context = make_context([40, 50], 1, 2, 64, torch.float32)
    result = ops.paged_attention(query * 1e4, *context, 1.0)
    assert result.isfinite().all()
    query[0, 1, 5] = torch.inf
    result = ops.paged_attention(query, *context, 1.0)
    assert result[0, 1].isnan().all()
    assert result[1].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(0, 9), width=st.integers(1, 200))
def test_silu_and_mul(dtype, rows, width):
    gate, up = random(rows, width, dtype=dtype) * 8, random(rows, width, dtype=dtype, seed=1)
    expected = torch.nn.functional.silu(gate) * up
    rtol = 1e-5 if dtype == torch.float32 else 2**-6
    torch.testing.assert_close(ops.silu_and_mul(gate, up), expected, rtol=rtol, atol=1e-6)
    both = torch.cat([gate, up], dim=1)  # as of one product for both
    parts = ops.silu_and_mul(both[:, :width], both[:, width:])
    torch.testing.assert_close(parts, expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@given(size=st.integers(0, 9000), scale=st.sampled_from([1, 10, 1e4]))
def test_gelu_tanh(dtype, size, scale):
    x = random(size, dtype=dtype) * scale
    exact = torch.nn.functional.gelu(x.double(), approximate="tanh")
    rtol = 1e-5 if dtype == torch.float32 else 2**-8
    result = ops.gelu_tanh(x)
    torch.testing.assert_close(result.double(), exact, rtol=rtol, atol=2e-6)
    assert ops.gelu_tanh(x, out=x) is x
    assert torch.equal(x, result)


def test_activations_keep_the_undefined_and_the_infinite():
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -3e38] * 5)
    for result, expected in [
        (ops.gelu_tanh(x), torch.nn.functional.gelu(x, approximate="tanh")),
        (ops.silu_and_mul(x, torch.ones(25)), torch.nn.functional.silu(x)),
    ]:
        torch.testing.assert_close(result, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "angle_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
@given(tokens=st.integers(1, 5), kv_heads=st.integers(1, 3), dim=st.sampled_from([2, 8, 64, 100]))
def test_rotation_is_that_of_transformers(dtype, angle_dtype, tokens, kv_heads, dim):
    both = random(tokens, 4 * kv_heads + 1, dim, dtype=dtype)  # as of one product for all
    query, keys, values = both.split([2 * kv_heads + 1, kv_heads, kv_heads], dim=1)
    angles = random(tokens, dim // 2, seed=1).repeat(1, 2)
    cos, sin = angles.cos().to(angle_dtype), angles.sin().to(angle_dtype)
    expected = [
        each.transpose(0, 1).to(dtype)
        for each in apply_rotary_pos_emb(
            *(part.transpose(0, 1).to(angle_dtype) for part in (query, keys)),
            cos, sin, unsqueeze_dim=0,
        )
    ]  # fmt: skip
    before = values.clone()
    key_blocks, value_blocks = random(2, 3, 32, kv_heads, dim, dtype=dtype, seed=2)
    slots = torch.tensor([90, 5, 31, 32, 64])[:tokens]
    ops.rotate_and_write(query, keys, values, cos, sin, key_blocks, value_blocks, slots)
    rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (2**-7, 1e-6)  # one step
    for result, wanted in zip((query, keys), expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=rtol, atol=atol)
    assert torch.equal(values, before)
    assert torch.equal(key_blocks.flatten(0, 1)[slots], keys)
    assert torch.equal(value_blocks.flatten(0, 1)[slots], values)
