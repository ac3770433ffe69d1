"""Pictures of one prompt under limits of their own: the scheduler, `generate` and beams agree."""

import pytest

from minicpmv import Chat

from ..helpers.pictures import picture

OPTIONS = {"sampling": False, "num_beams": 1, "max_new_tokens": 6}


def conversation(*limits: int | None) -> list[dict]:
    blocks = [
        {"type": "image", "image": picture(900, 1400, seed)}
        | ({} if limit is None else {"max_slice_nums": limit})
        for seed, limit in enumerate(limits)
    ]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": "What is it?"}]}]


def test_limits_of_pictures_hold_in_the_engine_and_in_generate(
    seeing: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = conversation(1, None, 2)
    answer = seeing.ask(messages, **OPTIONS)
    assert seeing.ask(conversation(1, 1, 1), **OPTIONS).num_input_tokens < answer.num_input_tokens
    again = seeing.ask(messages, **OPTIONS)  # from what is remembered
    assert again.token_ids == answer.token_ids
    monkeypatch.setattr(seeing.engine, "_current", lambda *_: None)
    generated = seeing.ask(messages, **OPTIONS)
    assert generated.num_input_tokens == answer.num_input_tokens
    assert generated.token_ids == answer.token_ids


def test_one_limit_for_all_is_that_of_the_call(seeing: Chat) -> None:
    own = seeing.ask(conversation(1, 1), **OPTIONS)
    call = seeing.ask(conversation(None, None), max_slice_nums=1, **OPTIONS)
    assert own.num_input_tokens == call.num_input_tokens
    assert own.token_ids == call.token_ids


def test_the_same_picture_is_remembered_apart_by_its_limit(seeing: Chat) -> None:
    for limit in (1, None, 2):
        seeing.engine.forget()
        fresh = seeing.ask(conversation(limit), **OPTIONS)
        for other in (None, 1, 2):
            seeing.ask(conversation(other), **OPTIONS)
        assert seeing.ask(conversation(limit), **OPTIONS).token_ids == fresh.token_ids


def test_beams_keep_the_limits(seeing: Chat) -> None:
    beams = OPTIONS | {"num_beams": 2}
    own = seeing.ask(conversation(1, 1), **beams)
    call = seeing.ask(conversation(None, None), max_slice_nums=1, **beams)
    assert own.num_input_tokens == call.num_input_tokens
    assert own == call
