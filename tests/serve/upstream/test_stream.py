"""Chunks as events: in other orders than usual, and what is no chunk."""

from typing import Any

import pytest

from minicpmv.serve.jobs import Finished, Job, Piece, Started
from minicpmv.serve.upstream.failures import UpstreamError
from minicpmv.serve.upstream.stream import Reader


def reader(n: int = 1, **options: Any) -> Reader:
    return Reader(Job("nano", [{"role": "user", "content": "x"}], options, n), 0.0, True)


def chunk(
    text: str | None = None, reason: str | None = None, index: int = 0, **rest: Any
) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": reason, **rest}
    return {"choices": [choice]}


def answers(found: list[Any]) -> list[Any]:
    return [event.answer for event in found if isinstance(event, Finished)]


def test_text_may_come_with_the_end() -> None:
    one = reader()
    events = one.feed(chunk("yes", "stop"))
    assert events == [Started(0), Piece(0, "yes")]
    (answer,) = answers(one.end())
    assert (answer.text, answer.num_output_tokens) == ("yes", 1)


def test_an_answer_may_be_empty() -> None:
    one = reader()
    one.feed(chunk("", "stop"))
    assert not one.has_begun
    (answer,) = answers(one.end())
    assert answer.text == ""


def test_the_last_usage_tells_the_tokens_of_one_answer() -> None:
    one = reader()
    one.feed(chunk("yes"))
    one.feed(chunk(None, "stop"))
    one.feed({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}})
    (answer,) = answers(one.end())
    assert (answer.num_input_tokens, answer.num_output_tokens) == (5, 9)


def test_a_text_of_stop_is_named() -> None:
    one = reader()
    one.feed(chunk("a", "stop", stop_reason="END"))
    (answer,) = answers(one.end())
    assert answer.stop_text == "END"


def test_other_beams_are_left_out() -> None:
    one = reader(num_beams=2)
    one.feed(chunk("best", "stop"))
    assert one.feed(chunk("second", "stop", index=1)) == []
    assert [answer.text for answer in answers(one.end())] == ["best"]


def test_an_answer_without_an_end_is_none() -> None:
    two = reader(n=2)
    two.feed(chunk("a", "stop"))
    with pytest.raises(UpstreamError, match="broke off"):
        two.end()


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_is_given_up_is_an_error(reason: str) -> None:
    with pytest.raises(UpstreamError, match=f"gave the answer up .{reason}"):
        reader().feed(chunk("a", reason))


@pytest.mark.parametrize(
    "found",
    [
        *(7, None, [], "text", {}, {"choices": None}, {"choices": [7]}, {"choices": [{}]}),
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0, "delta": {"content": 7}}]},
        {"choices": [], "usage": 5},
        {"choices": [], "usage": {"prompt_tokens": "many"}},
        {"choices": [], "usage": {"prompt_tokens": float("inf")}},
        {"choices": [], "usage": {"prompt_tokens": -3}},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": -1}},
        {"choices": [], "usage": {"prompt_tokens": 3, "prompt_tokens_details": [4]}},
    ],
)
def test_what_is_no_chunk_is_said(found: Any) -> None:
    with pytest.raises(UpstreamError, match="no chunk of an answer") as caught:
        reader().feed(found)
    assert caught.value.error.status == 500
    assert caught.value.elsewhere


@pytest.mark.parametrize("logprob", ["low", float("inf"), None])
def test_a_log_probability_that_is_none_is_said(logprob: Any) -> None:
    entry = {"token": "a", "logprob": logprob, "bytes": [97], "top_logprobs": []}
    with pytest.raises(UpstreamError, match="no chunk of an answer"):
        reader(logprobs=0).feed(chunk("a", logprobs={"content": [entry]}))


@pytest.mark.parametrize(
    ("error", "status", "elsewhere"),
    [
        ({"message": "bad picture", "code": 400}, 400, False),
        ({"message": "dead", "code": 500}, 500, True),
        ({"message": "later", "code": "unavailable"}, 503, True),
        ({"message": "ours", "code": "internal_error"}, 500, True),
        ({"message": "odd", "code": ["unavailable"]}, 500, True),
    ],
)
def test_an_error_in_the_stream_has_its_status(
    error: dict[str, Any], status: int, elsewhere: bool
) -> None:
    with pytest.raises(UpstreamError) as caught:
        reader().feed({"error": error})
    assert (caught.value.error.status, caught.value.elsewhere) == (status, elsewhere)
