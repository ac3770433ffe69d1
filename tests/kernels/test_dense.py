"""Attention of many tokens, compiled, against torch, over shapes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minicpmv import kernels
from minicpmv.kernels.dense import (
    attention_of_tokens,
    causal_attention,
    compiled_attention,
    dense_attention,
)

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def library() -> kernels.Library:
    found = kernels.library()
    if found is None:
        pytest.skip(f"no compiled kernels: {kernels.why_not()}")
    return found


def random(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    num_queries=st.integers(8, 70),
    num_keys=st.integers(1, 130),
    half=st.integers(1, 50),
)
def test_it_is_torch(library, dtype, batch, heads, num_queries, num_keys, half):
    dim = 2 * half
    # As projections give them: tokens before heads.
    query = random(batch, num_queries, heads, dim, dtype=dtype, seed=0).transpose(1, 2)
    keys = random(batch, num_keys, heads, dim, dtype=dtype, seed=1).transpose(1, 2)
    values = random(batch, num_keys, heads, dim, dtype=dtype, seed=2).transpose(1, 2)
    found = compiled_attention(library, query, keys, values, dim**-0.5)
    expected = F.scaled_dot_product_attention(query.double(), keys.double(), values.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    tokens = [x.transpose(1, 2).flatten(2) for x in (query, keys, values)]
    side_by_side = attention_of_tokens(*tokens, dim, dim**-0.5).double()
    expected = expected.transpose(1, 2).flatten(2)
    torch.testing.assert_close(side_by_side, expected, atol=tolerance, rtol=tolerance)


def test_the_query_of_all_rows_may_be_one() -> None:
    query = random(1, 20, 32, dtype=torch.float32, seed=1)
    keys = random(3, 9, 32, dtype=torch.float32, seed=2)
    found = attention_of_tokens(query.expand(3, -1, -1), keys, keys, 16, 0.25)
    rows = [attention_of_tokens(query, key[None], key[None], 16, 0.25) for key in keys]
    torch.testing.assert_close(found, torch.cat(rows))


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    num_queries=st.integers(8, 150),
    before=st.integers(0, 130),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    half=st.integers(1, 50),
)
def test_each_token_attends_to_those_before_it(
    library, dtype, num_queries, before, kv_heads, group, half
):
    dim, total = 2 * half, before + num_queries
    query = random(num_queries, kv_heads * group, dim, dtype=dtype, seed=7)
    keys, values = random(2, total, kv_heads, dim, dtype=dtype, seed=8)
    found = causal_attention(query, keys, values, dim**-0.5)
    if found is None:
        pytest.skip("torch is as fast here")
    heads = [x.double().transpose(0, 1)[None] for x in (query, keys, values)]
    mask = torch.ones(num_queries, total, dtype=torch.bool).tril(before)
    expected = F.scaled_dot_product_attention(*heads, mask, enable_gqa=True)[0].transpose(0, 1)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_neighbours_do_not_change_it(library, dtype):
    query, keys, values = random(3, 2, 300, 3, 24, dtype=dtype, seed=3).transpose(2, 3)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 7):
            torch.set_num_threads(number)
            found.append(compiled_attention(library, query, keys, values, 0.2))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
    alone = compiled_attention(library, query[1:, 2:], keys[1:, 2:], values[1:, 2:], 0.2)
    assert torch.equal(alone, found[0][1:, 2:])


def test_what_is_undefined_stays_in_its_row(library):
    query, keys, values = random(3, 1, 40, 1, 16, dtype=torch.float32, seed=4).transpose(2, 3)
    query[0, 0, 5, 3] = torch.nan
    found = compiled_attention(library, query, keys, values, 0.25)
    assert found[0, 0, 5].isnan().all()
    assert found.isnan().sum() == 16


def test_large_scores_do_not_overflow(library):
    query, keys, values = random(3, 1, 40, 1, 16, dtype=torch.float32, seed=5).transpose(2, 3)
    found = compiled_attention(library, query * 1e3, keys * 1e3, values, 1.0)
    expected = F.scaled_dot_product_attention(query * 1e3, keys * 1e3, values, scale=1.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("change", ["gradient", "float64", "odd", "apart", "few"])
def test_what_it_does_not_take_is_left_to_torch(library, change):
    query, keys, values = random(3, 1, 40, 1, 16, dtype=torch.float32, seed=6).transpose(2, 3)
    if change == "gradient":
        query = query.clone().requires_grad_()
    if change == "float64":
        query, keys, values = query.double(), keys.double(), values.double()
    if change == "odd":
        query, keys, values = query[..., :7], keys[..., :7], values[..., :7]
    if change == "apart":
        query = query.mT.contiguous().mT
    if change == "few":
        query = query[:, :, :2]
    assert compiled_attention(library, query, keys, values, 0.25) is None
    expected = F.scaled_dot_product_attention(query, keys, values, scale=0.25)
    torch.testing.assert_close(dense_attention(query, keys, values, 0.25), expected)
