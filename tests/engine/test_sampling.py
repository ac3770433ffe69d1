"""Tokens are chosen as `generate` chooses them, alone and beside others."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from minicpmv import Chat
from minicpmv.engine.draws import Draw, drawn, likeliest
from minicpmv.engine.hf import LogprobRecord, generate_ids
from minicpmv.engine.sampling import Choice, Chooser, Rules, choose

from ..helpers.chats import FOLDERS, loaded

LENGTH = 300  # of a made-up vocabulary

PENALTIES = {
    "repetition_penalty": st.sampled_from([1.0, 0.7, 1.3, 4.0]),
    "no_repeat_ngram_size": st.sampled_from([1, 2, 3]),
    "min_new_tokens": st.sampled_from([0, 3, 6]),
    "frequency_penalty": st.sampled_from([0.7, -2.0]),
    "presence_penalty": st.sampled_from([2.0, -0.3]),
    "logit_bias": st.dictionaries(st.integers(3, 60), st.floats(-100, 100), max_size=4),
    "logprobs": st.integers(0, 20),
}
DRAWING = {
    "temperature": st.sampled_from([0.3, 1.0, 1.7, 5.0]),
    "top_k": st.sampled_from([0, 1, 5, 100, 10**6]),
    "top_p": st.sampled_from([1e-6, 0.5, 0.9, 1.0]),
    "min_p": st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    "seed": st.integers(0, 2**63 - 1),
}


@st.composite
def generation_options(draw: st.DrawFn) -> dict[str, Any]:
    options = draw(st.fixed_dictionaries({}, optional=PENALTIES))
    if draw(st.booleans()):
        options |= draw(st.fixed_dictionaries({}, optional=DRAWING)) | {"sampling": True}
    else:
        options |= {"sampling": False, "num_beams": 1}
    return options


def generated(chat: Chat, options: dict[str, Any]) -> tuple[list[int], list[Choice], torch.Tensor]:
    """Ids of a prompt, its answer by `generate`, and the logits (new, vocabulary) it saw."""
    inputs, plan = chat.prepare([[{"role": "user", "content": "Hi, hi"}]], **options)
    logits: list[torch.Tensor] = []
    hook = chat.model.register_forward_hook(
        lambda module, args, output: logits.append(output.logits[:, -1].float().clone())
    )
    record = None if plan.logprobs is None else LogprobRecord(plan.logprobs)
    torch.manual_seed(7)
    try:
        (ids,) = generate_ids(chat.model, inputs, plan, record=record).tolist()
    finally:
        hook.remove()
    choices = list(map(Choice, ids)) if record is None else record.rows[0]
    assert [choice.token for choice in choices] == ids
    return inputs["input_ids"][0].tolist(), choices, torch.cat(logits)


@pytest.mark.parametrize("name", FOLDERS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(options=generation_options())
def test_tokens_are_those_of_generate(name: str, options: dict[str, Any]) -> None:
    chat = loaded(name)
    prompt, choices, logits = generated(chat, options | {"max_new_tokens": 8})
    _, plan = chat.prepare([[{"role": "user", "content": "Hi"}]], **options)
    chooser = Chooser(Rules.of(plan), prompt)
    torch.manual_seed(7)
    found = []
    for row in logits:
        (choice,) = choose(row[None], [chooser])
        assert isinstance(choice, Choice)
        chooser.append(choice.token)
        found.append(choice)
    assert found == choices


def rows_of(data: st.DataObject, num_rows: int) -> torch.Tensor:
    """Logits with many equal ones, as bfloat16 makes them."""
    seed = data.draw(st.integers(0, 2**32))
    logits = torch.randn(num_rows, LENGTH, generator=torch.Generator().manual_seed(seed)) * 4
    return logits.round() if data.draw(st.booleans()) else logits


RULES = st.builds(
    Rules,
    draw=st.none()
    | st.builds(
        Draw,
        temperature=st.none() | st.sampled_from([0.5, 2.0]),
        top_k=st.none() | st.sampled_from([1, 4, 50]),
        top_p=st.none() | st.sampled_from([0.4, 0.95]),
        min_p=st.none() | st.sampled_from([0.01, 0.2]),
    ),
    seed=st.integers(0, 2**32),
    min_new_tokens=st.integers(0, 3),
    terminator_ids=st.sampled_from([(), (1,), (1, 2)]),
    no_repeat_ngram_size=st.integers(0, 2),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    penalise_prompt=st.booleans(),
    pad_token_id=st.sampled_from([0, 3]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -2.0]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    logit_bias=st.sampled_from([(), ((5, 3.0), (10**6, 1.0)), ((7, -100.0),)]),
    num_top=st.none() | st.integers(0, 20),
)
PROMPT = [3, 3, 4, 5, 4, 5, 10**6]


@settings(deadline=None)
@given(st.lists(RULES, min_size=1, max_size=6), st.data())
def test_a_row_is_alone_in_a_batch(rules: list[Rules], data: st.DataObject) -> None:
    together = [Chooser(rule, PROMPT) for rule in rules]
    alone = [Chooser(rule, PROMPT) for rule in rules]
    for _ in range(4):
        logits = rows_of(data, len(rules))
        broken = data.draw(st.sampled_from([None, *range(len(rules))]))
        if broken is not None:
            logits[broken, 100:] = data.draw(st.sampled_from([math.nan, math.inf]))
        before = logits.clone()
        found = choose(logits, together)
        assert torch.equal(logits, before) or broken is not None
        for place, chooser in enumerate(alone):
            (expected,) = choose(logits[place : place + 1], [chooser])
            if place == broken:
                assert isinstance(found[place], ValueError)
                assert "not finite" in str(found[place])
                assert str(found[place]) == str(expected)
            else:
                assert found[place] == expected
            for choice, each in ((found[place], together[place]), (expected, chooser)):
                if isinstance(choice, Choice):
                    each.append(choice.token)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([1, 2, 30, 128, 1500]),
    st.none() | st.floats(0.05, 0.99),
    st.none() | st.floats(0, 1),
    st.sampled_from([1, 300, 5000, 40_000]),
    st.data(),
)
def test_draws_are_those_of_the_warpers(
    top_k: int, top_p: float | None, min_p: float | None, length: int, data: st.DataObject
) -> None:
    """Equal to the bit, where many tokens are equally likely, too."""
    maker = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    scores = (torch.randn(3, length, generator=maker) * 3).bfloat16().float()
    scores[0, ::2] = -torch.inf
    scores[0, 0] = 0.0
    draw = Draw(top_k=top_k, top_p=top_p, min_p=min_p)
    rows = [torch.Generator().manual_seed(seed) for seed in range(3)]
    largest, tokens = drawn(scores, draw, rows)
    warped = TopKLogitsWarper(top_k)(torch.empty(0), scores)
    if top_p is not None:
        warped = TopPLogitsWarper(top_p)(torch.empty(0), warped)
    if min_p is not None:
        warped = MinPLogitsWarper(min_p)(torch.empty(0), warped)
    assert torch.equal(largest, scores.amax(dim=-1))
    for seed, (row, token) in enumerate(zip(warped.softmax(dim=-1), tokens, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        assert torch.multinomial(row[None], 1, generator=generator) == token
        assert torch.equal(generator.get_state(), rows[seed].get_state())


@given(st.one_of(st.integers(1, 700), st.integers(8192, 9000)), st.data())
def test_the_likeliest_is_the_first_of_equals(length: int, data: st.DataObject) -> None:
    maker = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    scores = torch.randint(-3, 3, (4, length), generator=maker).float()
    largest, places = likeliest(scores)
    assert torch.equal(places, scores.argmax(dim=-1))
    assert torch.equal(largest, scores.amax(dim=-1))


def chosen_of(logits: list[float], new_ids: list[int], **rules: Any) -> Choice:
    chooser = Chooser(Rules(**rules), PROMPT)
    for token in new_ids:
        chooser.append(token)
    (choice,) = choose(torch.tensor([logits]), [chooser])
    assert isinstance(choice, Choice)
    return choice


def test_penalties_by_hand() -> None:
    assert chosen_of([5.0, 4.8, 0.0], [0], repetition_penalty=1.1).token == 1
    assert chosen_of([5.0, 4.8, 0.0], [0], repetition_penalty=1.01).token == 0
    assert chosen_of([-1.0, -1.1, -9.0], [0], repetition_penalty=1.2).token == 1
    three = [1, 1, 1]
    assert chosen_of([2.0, 3.4, 0.0], three, frequency_penalty=0.5).token == 0  # 3.4 - 1.5
    assert chosen_of([2.0, 3.6, 0.0], three, frequency_penalty=0.5).token == 1
    assert chosen_of([2.0, 3.6, 0.0], three, presence_penalty=1.7).token == 0
    assert chosen_of([2.0, 3.6, 0.0], three, presence_penalty=1.5).token == 1
    assert chosen_of([2.0, 0.0, 0.0], [1], presence_penalty=-2.0, frequency_penalty=-1).token == 1
    assert chosen_of([2.0, 3.0, 0.0], [], logit_bias=((1, -100.0), (2, 2.5))).token == 2
    # The prompt is not counted, but where the release says so, and then without its padding.
    prompt = [0.0, 0.0, 0.0, 9.0, 8.9, 8.8]
    assert chosen_of(prompt, [], presence_penalty=2.0).token == 3
    assert chosen_of(prompt, [], repetition_penalty=2.0).token == 3
    counted = {"repetition_penalty": 2.0, "penalise_prompt": True}
    assert chosen_of(prompt, [], **counted).token == 3  # of 4.5, 4.45, 4.4
    assert chosen_of([0.0, 0.0, 5.0, 9.0, 8.9, 8.8], [], **counted).token == 2
    assert chosen_of([0.0, 0.0, 0.0, 9.0, 8.9], [], pad_token_id=3, **counted).token == 3


def test_log_probabilities_are_those_of_the_model() -> None:
    """Before penalties, bias and temperature."""
    total = math.log(sum(math.exp(value) for value in (1.0, 3.0, 2.0)))
    choice = chosen_of([1.0, 3.0, 2.0], [1], presence_penalty=1.5, num_top=2)
    assert choice.token == 2
    assert choice.logprob == pytest.approx(2.0 - total, abs=1e-6)
    assert choice.top is not None
    assert [token for token, _ in choice.top] == [1, 2]
    assert [value for _, value in choice.top] == pytest.approx([3 - total, 2 - total], abs=1e-6)
    assert chosen_of([1.0, 3.0], [], num_top=0).top == []
    assert chosen_of([1.0, 3.0], []).logprob is None
    assert len(chosen_of([1.0, 3.0], [], num_top=20).top or []) == 2


def test_a_row_of_nothing_but_forbidden_tokens_is_an_error() -> None:
    chooser = Chooser(Rules(no_repeat_ngram_size=1), [0, 1])
    (found,) = choose(torch.zeros(1, 2), [chooser])
    assert isinstance(found, ValueError)
    assert choose(torch.zeros(0, 2), []) == []
