"""An answer is text with its cost; a stream gives the answer of `ask`."""

import copy
import json
import pickle
import time
from typing import Any

import pytest

from minicpmv import Answer, AnswerStream, BatchError, Chat

from ..helpers.pictures import picture

SHORT = {"max_new_tokens": 6}


def test_an_answer_is_text() -> None:
    answer = Answer("Two.", 30, 3, finish_reason="stop", prompt_seconds=0.5, decode_seconds=0.25)
    assert answer == answer.text == "Two."
    assert type(answer.text) is str
    assert json.loads(json.dumps([answer])) == ["Two."]
    assert "> " + answer == "> Two."
    assert {answer: 1}["Two."] == 1
    for other in (pickle.loads(pickle.dumps(answer)), copy.copy(answer), copy.deepcopy(answer)):
        assert vars(other) == vars(answer)
        assert other == answer
    assert (answer.seconds, answer.tokens_per_second) == (0.75, 8.0)
    error = BatchError([answer, None], {1: ValueError("bad")})
    assert pickle.loads(pickle.dumps(error)).answers == [answer, None]


@pytest.mark.parametrize("options", [{}, {"sampling": False}, {"sampling": False, "num_beams": 2}])
def test_a_stream_gives_the_answer_of_ask(chat: Chat, options: dict[str, Any]) -> None:
    _, plan = chat.prepare([[{"role": "user", "content": "Hi"}]], **SHORT, **options)
    if plan.config.do_sample:
        options = options | {"seed": 1}
    pictures = [picture(40, 30)] if chat.supports_images else []
    whole = chat.ask("What is it?", pictures, **SHORT, **options)
    for call in (chat.stream, chat.say, chat.conversation().say):
        stream = call("What is it?", pictures, **SHORT, **options)
        assert "".join(stream) == whole
        assert stream.answer is not None
        for name in ("num_input_tokens", "num_output_tokens", "finish_reason"):
            assert getattr(stream.answer, name) == getattr(whole, name)


def test_what_ended_an_answer(seeing: Chat) -> None:
    greedy = {"sampling": False, "num_beams": 1}
    long = {"min_new_tokens": 40, "max_new_tokens": 40}
    assert seeing.ask("Hi", **greedy, **long).finish_reason == "length"
    for answer in (
        seeing.ask("Hi", **greedy, **long, max_time=1e-6),
        *seeing.batch(["Hi", "Hello"], **greedy, **long, max_time=1e-6),
    ):
        assert answer.finish_reason == "time"
        assert answer.num_output_tokens < 40
    with seeing.stream("Hi", **greedy, **long, max_time=1e-6) as stream:
        list(stream)
    assert stream.answer is not None
    assert stream.answer.finish_reason == "time"
    config = seeing.model.config.get_text_config()
    context = stream.answer.num_input_tokens + 20
    most, config.max_position_embeddings = config.max_position_embeddings, context
    try:
        full = seeing.ask("Hi", **greedy, min_new_tokens=20, max_time=1e6)
        assert full.num_input_tokens + full.num_output_tokens == context
        assert full.finish_reason == "length"
    finally:
        config.max_position_embeddings = most


def test_the_pauses_of_a_reader_are_not_the_models(
    seeing: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands still while somebody reads: it is looked at by the thread that works."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stream = seeing.stream("Hi", sampling=False, num_beams=1, min_new_tokens=3, max_new_tokens=3)
    for _ in stream:
        pass
    now[0] = 1000.0
    assert stream.answer is not None
    assert stream.answer.seconds < 1


def test_a_stream_says_whether_it_is_open() -> None:
    def pieces() -> Any:
        yield "a"
        yield Answer("a")

    stream = AnswerStream(pieces())
    assert (next(stream), stream.is_open) == ("a", True)
    assert list(stream) == []
    assert (stream.is_open, stream.answer) == (False, "a")
    with AnswerStream(pieces()) as other:
        pass
    assert not other.is_open
