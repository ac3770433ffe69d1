"""Answers that do not depend, to the last bit, on what is computed before and beside them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from minicpmv import Chat, EngineLimits, kernels, load
from minicpmv.engine import decoder
from minicpmv.engine.invariance import is_invariant
from minicpmv.kernels.processor import instruction_sets
from minicpmv.kernels.products import few_rows_linear

from ..helpers.decoders import small

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
QUESTIONS = ("What colour is the star?", "Tell me a story.", "Hi", "Is there a red heart?")
WILD: dict[str, Any] = {"sampling": True, "temperature": 3.0, "top_p": 1.0, "top_k": 0}


@pytest.fixture(scope="module", autouse=True)
def library() -> kernels.Library:
    found = kernels.library()
    if found is None or "avx512f" not in found.target:
        pytest.skip("no compiled kernels for AVX-512")
    return found


@pytest.fixture(scope="module")
def nano() -> Iterator[Chat]:
    """In bfloat16, on a processor whose order of sums is known."""
    sets = instruction_sets()
    if "avx512_bf16" not in sets or "amx_bf16" in sets:
        pytest.skip("no kernels that add in the order of oneDNN on this processor")
    with load("nano", "cpu", "bfloat16", progress=False) as chat:
        yield chat


def test_nano_is_invariant(nano: Chat) -> None:
    assert is_invariant(nano.model)


def test_what_depends_on_others_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product that adds otherwise where there are many rows."""
    model = small("llama")
    own = decoder.dense_linear

    def other(x: torch.Tensor, *weights: Any) -> torch.Tensor:
        return own(x.double(), *(w if w is None else w.double() for w in weights)).to(x.dtype)

    monkeypatch.setattr(decoder.FewTokens, "compute", lambda *_: None)
    monkeypatch.setattr(decoder, "dense_linear", other)
    assert is_invariant(model)  # rounded from float64
    monkeypatch.setattr(
        decoder, "dense_linear", lambda x, *w: other(x, *w) * (1 + (len(x) > 14) * 2**-20)
    )
    assert not is_invariant(model)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # the difference is in what is stored, too
    assert not is_invariant(model)


@pytest.mark.parametrize("inputs", [384, 588, 768, 1024, 1536, 2050])
@torch.inference_mode()
def test_a_few_rows_have_the_bits_that_they_have_among_many(nano: Chat, inputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    x, weight, bias = (
        torch.randn(shape, generator=generator).bfloat16()
        for shape in ((100, inputs), (200, inputs), (200,))
    )
    for given in (None, bias):
        many = torch.ops.mkldnn._linear_pointwise(x, weight, given, "none", [], "")
        assert given is not None or torch.equal(many, F.linear(x, weight))
        for rows in (1, 2, 3, 4, 7, 12):
            few = few_rows_linear(x[:rows], weight, given)
            assert few is not None
            assert torch.equal(few, many[:rows])


def test_answers_are_the_same_alone_beside_others_and_again(nano: Chat) -> None:
    """Sampled at random with log-probabilities, which show every bit of the logits."""

    def ask(chat: Chat, number: int) -> tuple[str, list[float]]:
        images = [str(SCENE)] if number % 2 == 0 else []
        answer = chat.ask(
            QUESTIONS[number % 4], images, seed=number, max_new_tokens=24, logprobs=0, **WILD
        )
        assert answer.logprobs is not None
        return str(answer), [token.logprob for token in answer.logprobs]

    alone = []
    for number in range(8):
        with load("nano", "cpu", "bfloat16", progress=False) as fresh:
            alone.append(ask(fresh, number))
    assert len({text for text, _ in alone}) > 4
    with ThreadPoolExecutor(16) as threads:
        beside = list(threads.map(ask, [nano] * 24, [*range(8)] * 3))
    for number, found in enumerate(beside):
        assert found == alone[number % 8]
    assert [ask(nano, number) for number in range(8)] == alone


@pytest.mark.parametrize("number", [2, 8, 64])
def test_answers_are_the_same_however_far_is_guessed(nano: Chat, number: int) -> None:
    prompt, images = " ".join(["A red heart, a star."] * 6), [str(SCENE)]
    forced: dict[str, Any] = {"max_new_tokens": 80, "min_new_tokens": 80, "logprobs": 0}
    guessed = nano.engine.stats()["tokens"]["guessed"]
    found = nano.ask(prompt, images, prompt_lookup_num_tokens=number, **forced)
    assert nano.engine.stats()["tokens"]["guessed"] > guessed
    nano.engine.forget()
    plain = nano.ask(prompt, images, **forced)
    assert found.token_ids == plain.token_ids
    assert found.logprobs == plain.logprobs


@pytest.mark.parametrize("piece_tokens", [1, 5, 16])
def test_decisions_are_the_same_however_prompts_are_divided(nano: Chat, piece_tokens: int) -> None:
    choices = ("a red heart on the left", "the blue star above all the others", "no", "yes, it is")
    limits = EngineLimits(piece_tokens=piece_tokens)
    whole = nano.decide(QUESTIONS[0], choices=choices)
    with load("nano", "cpu", "bfloat16", progress=False, limits=limits) as divided:
        for _ in range(2):
            found = divided.decide(QUESTIONS[0], choices=choices)
            assert found.probabilities == whole.probabilities
