"""Answers in the form of other protocols."""

import json
from typing import Any

import pytest

from minicpmv import Answer
from minicpmv.engine.answer import TokenLogprob
from minicpmv.serve.errors import ApiError
from minicpmv.serve.protocols.anthropic_events import MessageEvents
from minicpmv.serve.protocols.ollama_answers import OllamaLines
from minicpmv.serve.protocols.responses_events import ResponseEvents

HEAD = {"id": "resp_1", "object": "response", "model": "nano"}
TOKEN = TokenLogprob(5, "red", -0.5, (TokenLogprob(6, "blue", -1.5),))


def an_answer(text: str = "", **fields: Any) -> Answer:
    return Answer(text, 7, 3, **fields)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_events_of_a_response_come_in_openais_order() -> None:
    events = ResponseEvents(HEAD, shows_logprobs=True)
    all_ = events.begin()
    all_ += [*events.text("red", [TOKEN]), *events.text(" star")]
    all_ += events.finish(an_answer("red star"))
    assert kinds(all_) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in all_] == list(range(10))
    assert all_[0]["response"]["output"] == []
    assert all_[2]["item"]["content"] == []
    assert all_[3]["part"]["text"] == ""
    assert all_[4]["logprobs"][0]["top_logprobs"][0]["token"] == "blue"
    assert all_[6]["text"] == "red star"
    response = all_[-1]["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "red star"
    assert response["output"][0]["content"][0]["logprobs"][0]["token"] == "red"
    usage = response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (7, 3, 10)


def test_a_cut_response_is_incomplete_and_an_empty_one_has_a_message() -> None:
    events = ResponseEvents(HEAD)
    events.begin()
    *_, done, last = events.finish(an_answer(finish_reason="length"))
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert done["item"]["status"] == "incomplete"
    assert done["item"]["content"][0]["text"] == ""


def test_a_call_in_a_response() -> None:
    events = ResponseEvents(HEAD)
    events.begin()
    all_ = [*events.text("I look."), *events.call("call_1", "weather")]
    all_ += [*events.arguments('{"city": '), *events.arguments('"Bonn"}')]
    all_ += events.finish(an_answer())
    assert kinds(all_)[-7:] == [
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    message, call = events.response["output"]
    assert message["content"][0]["text"] == "I look."
    assert (call["call_id"], call["name"]) == ("call_1", "weather")
    assert json.loads(call["arguments"]) == {"city": "Bonn"}
    assert all_[-2]["output_index"] == 1


def test_a_response_that_fails_says_so_twice() -> None:
    events = ResponseEvents(HEAD)
    events.begin()
    error, failed = events.fail(ApiError(500, "internal_error", "It broke."))
    assert (error["type"], error["message"]) == ("error", "It broke.")
    assert error["error"]["message"] == "It broke."
    assert failed["response"]["status"] == "failed"


def test_events_of_a_message_come_in_anthropics_order() -> None:
    events = MessageEvents("msg_1", "nano", 20)
    all_ = [*events.begin(7), *events.text("red"), *events.text(" star")]
    all_ += events.finish(an_answer("red star"))
    assert kinds(all_) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all_[0]["message"]["usage"]["input_tokens"] == 7
    assert all_[0]["message"]["content"] == []
    assert all_[2]["content_block"] == {"type": "text", "text": ""}
    assert all_[6]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert all_[6]["usage"]["output_tokens"] == 3
    assert events.message["content"] == [{"type": "text", "text": "red star"}]


@pytest.mark.parametrize(
    ("fields", "max_tokens", "reason", "stop"),
    [
        ({}, 20, "end_turn", None),
        ({"stop_text": "."}, 20, "stop_sequence", "."),
        ({"finish_reason": "length"}, 3, "max_tokens", None),
        ({"finish_reason": "length"}, 20, "model_context_window_exceeded", None),
        ({"finish_reason": "time"}, 20, "max_tokens", None),
    ],
)
def test_why_a_message_ended(
    fields: dict[str, Any], max_tokens: int, reason: str, stop: str | None
) -> None:
    events = MessageEvents("msg_1", "nano", max_tokens)
    events.begin(7)
    events.finish(an_answer(**fields))
    assert (events.message["stop_reason"], events.message["stop_sequence"]) == (reason, stop)
    assert events.message["content"] == [{"type": "text", "text": ""}]


def test_a_call_in_a_message() -> None:
    events = MessageEvents("msg_1", "nano", 20)
    all_ = [*events.begin(7), *events.call("toolu_1", "weather")]
    all_ += [*events.arguments('{"city": '), *events.arguments('"Bonn"}')]
    all_ += events.finish(an_answer())
    assert all_[2]["content_block"]["input"] == {}
    (block,) = events.message["content"]
    assert block == {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "weather",
        "input": {"city": "Bonn"},
    }
    assert events.message["stop_reason"] == "tool_use"


def test_lines_of_ollama_add_up_to_the_whole() -> None:
    lines = OllamaLines("nano:latest", is_chat=True, shows_logprobs=True)
    answer = an_answer("red", prompt_seconds=0.5, decode_seconds=0.25)
    piece, last = lines.text("red", [TOKEN]), lines.last(answer)
    assert piece["message"] == {"role": "assistant", "content": "red"}
    assert (piece["done"], last["done"], last["done_reason"]) == (False, True, "stop")
    assert piece["logprobs"][0]["top_logprobs"][0]["token"] == "blue"
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 3)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (500_000_000, 250_000_000)
    assert last["total_duration"] >= 750_000_000
    whole = lines.whole(answer, "red", tokens=[TOKEN])
    assert whole["message"]["content"] == "red"
    assert whole["logprobs"] == piece["logprobs"]
    assert OllamaLines("nano", is_chat=False).text("a")["response"] == "a"
