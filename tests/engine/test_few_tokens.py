"""A few tokens by one call have the bits of the modules called one by one."""

import ctypes
from typing import Any

import pytest
import torch

from minicpmv import kernels
from minicpmv.engine import few_tokens
from minicpmv.engine.attention import Span
from minicpmv.engine.decoder import FewTokens
from minicpmv.kernels.dense import pays
from minicpmv.kernels.products import few_rows_linear, packed_weight

from ..helpers.decoders import Sequences, small

# (sequence, tokens) of each pass; which tokens of the last one are kept, all where it is None.
PASSES = {
    "a step": ([[(0, 40)], [(1, 33)], [(0, 1), (1, 1)]], None),
    "a short prompt": ([[(0, 9)]], [8]),
    "the end of a prompt": ([[(0, 40)], [(0, 12)]], [11]),
    "a prompt of which all is wanted": ([[(0, 40)], [(0, 5)]], None),
    "steps beside the end of a prompt": ([[(0, 40)], [(1, 20)], [(0, 1), (1, 11)]], [0, 11]),
}


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which passes were computed by one call."""
    library = kernels.library()
    if library is None or "avx512f" not in library.target:
        pytest.skip("no compiled kernels for AVX-512")
    found: list[bool] = []
    own = FewTokens.compute

    def compute(*arguments: Any) -> torch.Tensor | None:
        result = own(*arguments)
        found.append(result is not None)
        return result

    monkeypatch.setattr(FewTokens, "compute", compute)
    return found


def logits(
    model: Any,
    passes: list[list[tuple[int, int]]],
    keep: list[int] | None,
    follow: bool = True,
    is_fixed: bool = False,
) -> torch.Tensor:
    """Args: follow: whether blocks of a sequence follow each other."""
    sequences = Sequences(model, [60, 60])
    sequences.decoder.is_fixed = is_fixed
    sequences.tables = [[0, 1], [2, 3]] if follow else [[3, 0], [2, 1]]
    for pieces in passes[:-1]:
        sequences.step(*pieces)
    return torch.cat(sequences.step(*passes[-1], keep=keep))


@pytest.mark.parametrize("case", PASSES)
@pytest.mark.parametrize("name", ["llama-one-kv-head", "llama-wide-heads", "qwen2", "minicpm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_those_of_the_modules(
    dtype: torch.dtype, name: str, case: str, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = kernels.built()
    if library is None or not pays(library, dtype):
        pytest.skip("torch is faster in this dtype on this processor")
    model = small(name).to(dtype)
    passes, keep = PASSES[case]
    found = logits(model, passes, keep)
    assert taken[-1]
    apart = logits(model, passes, keep, follow=False)
    assert taken[-1]
    assert torch.equal(apart, found)
    assert torch.equal(logits(model, passes, keep, is_fixed=True), found)
    monkeypatch.setattr(FewTokens, "compute", lambda *_: None)
    assert torch.equal(found, logits(model, passes, keep))


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(48, 40), (1024, 100), (1600, 96), (2048, 32), (2, 36)])
def test_packed_weights_are_those_that_they_were(shape: tuple[int, int]) -> None:
    """Outputs that fill no tile, and inputs of one chunk, of several, and of a part of one."""
    library = kernels.built()
    assert library is not None
    inputs, outputs = shape
    torch.manual_seed(inputs)
    weight, bias = torch.randn(outputs, inputs).bfloat16(), torch.randn(outputs).bfloat16()
    packed = packed_weight(library, weight)
    if packed is None:
        assert "avx512_bf16" not in library.target
        pytest.skip("nothing is packed for this processor")
    for rows in range(1, 13):
        x = torch.randn(rows, inputs).bfloat16()
        found = torch.empty(rows, outputs, dtype=torch.bfloat16)
        multiply = library.function(
            "packed_rows_bf16", *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 4, ctypes.c_int
        )
        pointers = [each.data_ptr() for each in (x, packed, bias, found)]
        multiply(*pointers, rows, inputs, outputs, inputs, 2)
        assert torch.equal(found, few_rows_linear(x, weight, bias))


def test_large_weights_are_not_kept_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = Sequences(small("llama").bfloat16(), [20])
    monkeypatch.setattr(few_tokens, "_MOST_PACKED", 1000)
    sequences.decoder.is_fixed = True
    sequences.step((0, 8))
    assert sequences.decoder._few_tokens._packed == {}


def test_modules_that_are_more_than_their_class_are_called(taken: list[bool]) -> None:
    model, (passes, keep) = small("llama"), PASSES["a step"]
    plain = logits(model, passes, keep)
    assert taken[-1]
    calls = []
    hook = model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(logits(model, passes, keep), plain, atol=1e-4, rtol=1e-4)
    assert not taken[-1]
    assert calls
    hook.remove()
    calls.clear()
    hook = model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(logits(model, passes, keep), plain, atol=1e-4, rtol=1e-4)
    assert taken[-1]  # what comes before
    assert calls
    hook.remove()
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    assert not torch.equal(logits(model, passes, keep), plain)
    assert taken[-1]


def test_a_fixed_model_is_looked_at_again_when_the_store_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sequences = Sequences(small("llama"), [100])
    decoder, store = sequences.decoder, sequences.store
    sequences.tables = [[0, 1, 2, 3]]
    looked: list[int] = []
    own = decoder.plain_modules
    monkeypatch.setattr(decoder, "plain_modules", lambda: looked.append(1) or own())
    decoder.is_fixed = True
    sequences.check((0, 40))
    sequences.check((0, 1))
    sequences.check((0, 1))
    assert len(looked) == 1
    store.grow(store.capacity + 1)
    sequences.check((0, 12))
    assert len(looked) == 2


@pytest.mark.parametrize("parts", ["keys", "values"])
def test_keys_and_values_are_written_where_they_are_now(parts: str, taken: list[bool]) -> None:
    sequences = Sequences(small("llama"), [100])
    sequences.decoder.is_fixed = True
    sequences.check((0, 40))
    sequences.check((0, 1))
    memory = getattr(sequences.store, parts)
    former = list(memory)
    memory[:] = [part.clone() for part in former]
    for part in former:
        part.fill_(torch.nan)
    sequences.check((0, 1))
    sequences.check((0, 12))
    assert taken == [False, True, True, True]


def test_a_fixed_model_that_was_changed_is_fixed_anew() -> None:
    """Before, it is computed as it was: its weights are not gone with the model's."""
    model = small("llama")
    sequences = Sequences(model, [60])
    sequences.decoder.fix()
    sequences.check((0, 12))
    former = [linear.weight for linear in model.modules() if isinstance(linear, torch.nn.Linear)]
    places = [weight.untyped_storage()._weak_ref() for weight in former]
    for weight in former:
        weight.data = weight.data.neg()
    assert not any(torch.UntypedStorage._expired(place) for place in places)
    sequences.decoder.fix()
    with torch.inference_mode():
        sequences.wanted = [model(input_ids=ids[None]).logits[0].float() for ids in sequences.ids]
    sequences.done = [0]
    sequences.check((0, 12))
    assert all(torch.UntypedStorage._expired(place) for place in places)


def test_tokens_that_are_too_many_are_left_to_others(taken: list[bool]) -> None:
    sequences = Sequences(small("llama"), [60])
    sequences.step((0, 13))
    assert taken == [False]
    sequences.step((0, 12))
    assert taken == [False, True]


@torch.no_grad()
def test_layers_of_other_sizes_are_left_to_the_modules(taken: list[bool]) -> None:
    """Heads and channels of one layer that were taken away: nothing beyond them is read."""
    (passes, keep), model = PASSES["a step"], small("llama")
    mlp = model.model.layers[1].mlp
    for linear, outputs, inputs in (
        (mlp.up_proj, 40, 64),
        (mlp.gate_proj, 40, 64),
        (mlp.down_proj, 64, 40),
    ):
        linear.weight = torch.nn.Parameter(linear.weight[:outputs, :inputs].clone())
    logits(model, passes, keep)
    assert not taken[-1]
    attention = small("llama")
    own = attention.model.layers[1].self_attn
    own.q_proj.weight = torch.nn.Parameter(own.q_proj.weight[:32].clone())
    own.o_proj.weight = torch.nn.Parameter(own.o_proj.weight[:, :32].clone())
    own.num_key_value_groups = 1
    logits(attention, passes, keep)
    assert not taken[-1]


@torch.inference_mode()
def test_embeddings_may_lie_in_any_order(taken: list[bool]) -> None:
    sequences = Sequences(small("llama"), [60])
    embeds = sequences.decoder.embed(sequences.ids[0][:8])
    found = []
    for given in (embeds, embeds.t().contiguous().t()):
        spans = [Span(0, 8, [0], is_prompt=True)]
        found.append(sequences.decoder.forward(given, spans, sequences.store, [7]))
    assert taken == [True, True]
    assert torch.equal(*found)
