"""Attention over blocks is attention over keys in a row."""

import pytest
import torch

from minicpmv.engine.attention import (
    MAX_ROWS,
    MAX_ROWS_ON_CPU,
    Batcher,
    FlatBatch,
    Span,
    attend,
    attend_gathered,
)
from minicpmv.engine.block_store import BLOCK, BlockStore

SCALING = 0.2
DEVICE = torch.device("cpu")
LENGTHS = [1, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 7, 100]
CASES = {
    "steps": [1, 1, 1, 1, 1, 1],
    "guesses": [1, 4, 2, MAX_ROWS, 1, 3],
    "pieces": [1, BLOCK, MAX_ROWS + 1, 50, 7, 100],
}


def written(kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[BlockStore, list, list]:
    """A store of one layer; tables of sequences of `LENGTHS`, and their keys and values."""
    generator = torch.Generator().manual_seed(kv_heads)
    counts = [-(-length // BLOCK) for length in LENGTHS]
    tables = [t.tolist() for t in torch.randperm(sum(counts), generator=generator).split(counts)]
    tables[-1].sort(reverse=True)
    store = BlockStore(1, kv_heads, head_dim, dtype, DEVICE, sum(counts))
    pairs = []
    for length, table in zip(LENGTHS, tables, strict=True):
        pair = torch.randn((2, length, kv_heads, head_dim), generator=generator).to(dtype)
        padding = torch.full((2, -length % BLOCK, kv_heads, head_dim), torch.nan, dtype=dtype)
        blocks = torch.cat((pair, padding), dim=1).unflatten(1, (-1, BLOCK))
        store.keys[0][table], store.values[0][table] = blocks
        pairs.append(pair)
    return store, tables, pairs


def expected(query: torch.Tensor, pair: torch.Tensor, window: int | None) -> torch.Tensor:
    """Softmax of scores, head by head, in float64."""
    length, heads = query.shape[:2]
    keys, values = pair.double().repeat_interleave(heads // pair.shape[2], dim=2)
    scores = torch.einsum("qhd,khd->hqk", query.double(), keys) * SCALING
    own = torch.arange(len(keys) - length, len(keys))[:, None]
    places = torch.arange(len(keys))
    hidden = places > own
    if window is not None:
        hidden |= places <= own - window
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values)


@pytest.mark.parametrize("window", [None, 5, 40])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 64), (6, 2, 128), (3, 1, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("are_prompts", [False, True])
def test_attention_of_a_batch(
    are_prompts: bool,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    case: str,
    window: int | None,
) -> None:
    store, tables, pairs = written(kv_heads, head_dim, dtype)
    counts = CASES[case]
    spans = [
        Span(length - count, count, table, are_prompts)
        for length, count, table in zip(LENGTHS, counts, tables, strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    query = torch.randn((sum(counts), heads, head_dim), generator=generator).to(dtype)
    batch = Batcher(DEVICE).batch(spans)
    wanted = torch.cat(
        [expected(own, pair, window) for own, pair in zip(query.split(counts), pairs, strict=True)]
    )
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    results = [attend(query, store, 0, batch, SCALING, window)]
    if not batch.pieces:
        keys, values = store.keys[0], store.values[0]
        results.append(attend_gathered(query, keys, values, batch, SCALING, window))
    for result in results:
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), wanted, atol=tolerance, rtol=tolerance)


def test_rows_are_gathered_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store, tables, _ = written(2, 16, torch.float32)
    spans = [Span(n - 1, 1, table) for n, table in zip(LENGTHS, tables, strict=True)]
    batch = Batcher(DEVICE).batch(spans)
    query = torch.randn(len(spans), 4, 16)
    arguments = query, store.keys[0], store.values[0], batch, SCALING, None
    whole = attend_gathered(*arguments)
    monkeypatch.setattr("minicpmv.engine.attention._GATHERED", 4 * 8 * BLOCK * 2 * 16)
    torch.testing.assert_close(attend_gathered(*arguments), whole)


def test_places_of_a_batch() -> None:
    batch = Batcher(DEVICE).batch(
        [Span(33, 1, [4, 7]), Span(30, 3, [2, 5]), Span(0, 9, [1], is_prompt=True)]
    )
    assert batch.positions.tolist() == [33, 30, 31, 32, *range(9)]
    assert batch.slots.tolist() == [
        *(7 * BLOCK + 1, 2 * BLOCK + 30, 2 * BLOCK + 31, 5 * BLOCK),
        *range(BLOCK, BLOCK + 9),
    ]
    assert batch.rows is not None
    assert batch.rows.index is not None
    assert batch.rows.index.tolist() == [0, 1, 2, 3]
    assert batch.rows.lengths.tolist() == [34, 31, 32, 33]
    assert batch.rows.tables[:, :2].tolist() == [[4, 7], [2, 5], [2, 5], [2, 5]]
    assert [(piece.start, piece.total, piece.blocks) for piece in batch.pieces] == [
        (0, 9, slice(1, 2))
    ]
    assert not batch.is_step


def test_tokens_of_an_answer_are_rows_however_far_is_guessed() -> None:
    guessed, prompt = Span(20, MAX_ROWS_ON_CPU, [3, 1, 2]), Span(0, 2, [0], is_prompt=True)
    batch = Batcher(DEVICE).batch([guessed, prompt])
    assert batch.rows is not None
    assert batch.rows.lengths.tolist() == [*range(21, 21 + MAX_ROWS_ON_CPU)]
    assert [piece.total for piece in batch.pieces] == [2]


def test_tables_are_kept_while_they_hold() -> None:
    batcher = Batcher(DEVICE)

    def tables(*spans: Span) -> torch.Tensor:
        batch: FlatBatch = batcher.batch(spans)
        assert batch.rows is not None
        return batch.rows.tables

    blocks = list(range(20))
    first = tables(Span(5, 1, blocks), Span(7, 1, [30]))
    assert tables(Span(6, 1, blocks), Span(8, 1, [30])) is first
    assert tables(Span(255, 1, blocks), Span(9, 1, [30])) is first
    assert first.tolist() == [blocks[:8], [30] + [0] * 7]
    wider = tables(Span(256, 1, blocks), Span(10, 1, [30]))
    assert wider.tolist() == [blocks[:16], [30] + [0] * 15]
    blocks[1] = 40  # another sequence, in the same list
    assert tables(Span(257, 1, blocks), Span(11, 1, [30]))[0, 1] == 40
    assert tables(Span(11, 1, [30])).tolist() == [[30] + [0] * 7]
