"""Tokens of the caller that end an answer, and answers that the model cannot end by itself."""

import pytest

from minicpmv import Chat
from minicpmv.engine.constraints import Constraint
from minicpmv.engine.inputs import context_length
from minicpmv.engine.options import GENERATION
from minicpmv.errors import ArgumentError

GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}
LONG = GREEDY | {"min_new_tokens": 20, "max_new_tokens": 20}
QUESTION = "Tell me a story, tell me a story."


@pytest.mark.parametrize("by", ["engine", "generate"])
def test_a_token_of_the_caller_ends_an_answer_and_is_no_text(
    chat: Chat, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chat.ask(QUESTION, **GREEDY, max_new_tokens=12)
    place = next((i for i, t in enumerate(whole.token_ids) if i > 1 and t not in
                  (*whole.token_ids[:i], *chat.processor.terminator_ids)), None)  # fmt: skip
    if place is None:
        pytest.skip("the answer repeats one token")
    token = whole.token_ids[place]
    if by == "generate":
        monkeypatch.setattr(chat.engine, "_current", lambda *_: None)
    for ends in (token, [token, token]):
        answer = chat.ask(QUESTION, **GREEDY, max_new_tokens=12, stop_token_ids=ends)
        assert answer.finish_reason == "stop"
        assert answer.token_ids == whole.token_ids[: place + 1]
        assert answer == chat.processor.decode_answer(list(whole.token_ids[:place]))
        assert answer.has_terminator
        stream = chat.stream(QUESTION, **GREEDY, max_new_tokens=12, stop_token_ids=ends)
        assert "".join(stream) == answer


def test_it_cannot_come_before_the_shortest_length(seeing: Chat) -> None:
    whole = seeing.ask(QUESTION, **GREEDY, max_new_tokens=12)
    ends = [whole.token_ids[1]]
    options = GREEDY | {"max_new_tokens": 12, "min_new_tokens": 8, "stop_token_ids": ends}
    answer = seeing.ask(QUESTION, **options)
    assert answer.num_output_tokens >= 8
    assert not set(ends) & set(answer.token_ids[:8])


@pytest.mark.parametrize("by", ["engine", "generate", "beams"])
def test_the_model_cannot_end_an_answer_that_ignores_its_terminators(
    seeing: Chat, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (end, *_) = seeing.processor.terminator_ids
    options = GREEDY | {"max_new_tokens": 6, "logit_bias": {end: 50}}
    assert seeing.ask(QUESTION, **options).num_output_tokens == 1
    if by == "generate":
        monkeypatch.setattr(seeing.engine, "_current", lambda *_: None)
    if by == "beams":
        options |= {"num_beams": 2}
    answer = seeing.ask(QUESTION, **options, ignore_eos=True)
    assert answer.num_output_tokens == 6
    assert answer.finish_reason == "length"
    assert end not in answer.token_ids
    assert seeing.ask(QUESTION, **options, ignore_eos=False).token_ids != answer.token_ids


def test_an_answer_may_end_where_the_context_does(seeing: Chat) -> None:
    options = GREEDY | {"max_new_tokens": 10**6, "ignore_eos": True}
    with pytest.raises(ArgumentError, match="max_new_tokens is 1000000"):
        seeing.ask(QUESTION, **options)
    messages = [{"role": "user", "content": QUESTION}]
    inputs, plan = seeing.prepare([messages], **options, up_to_context=True)
    num_tokens = inputs["input_ids"].shape[1] + plan.config.max_new_tokens
    assert num_tokens == context_length(seeing.model.config)
    seeing.check_options(options | {"up_to_context": True})


def test_log_probabilities_stay_those_of_the_model(
    seeing: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = GREEDY | {"max_new_tokens": 4, "ignore_eos": True, "logprobs": 2}
    computed = seeing.ask(QUESTION, **options)
    monkeypatch.setattr(seeing.engine, "_current", lambda *_: None)
    generated = seeing.ask(QUESTION, **options)
    assert computed.logprobs is not None
    assert generated.logprobs is not None
    for one, other in zip(computed.logprobs, generated.logprobs, strict=True):
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_senseless_ends_are_named(seeing: Chat) -> None:
    size = len(seeing.processor.tokenizer)
    for value in ("7", [0.5], [-1], [True], {"7": 1}):
        with pytest.raises(ArgumentError, match="stop_token_ids"):
            GENERATION["stop_token_ids"].check(value)
    with pytest.raises(ArgumentError, match=f"names token {size}; the vocabulary has {size}"):
        seeing.ask(QUESTION, stop_token_ids=[size])
    with pytest.raises(ArgumentError, match=r"`?ignore_eos`? could forbid"):
        seeing.ask(QUESTION, ignore_eos=True, constraint=Constraint("json", ""))
