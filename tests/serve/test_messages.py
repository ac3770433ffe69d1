"""Anthropic's `/v1/messages` over a fake backend."""

import pytest
from starlette.testclient import TestClient

from ..helpers.serving import events_of, fake_app, refusal

PATH = "/v1/messages"
CALL = ('{"name": "tell", ', '"arguments": {"colour"', ': "red"}}')
TOOL = {"name": "tell", "input_schema": {"type": "object"}}


def asked(**fields):
    turn = {"role": "user", "content": "How many?"}
    return {"model": "fake", "max_tokens": 20, "messages": [turn], **fields}


def test_a_whole_message_has_every_field_that_clients_read(client, backend):
    response = client.post(PATH, json=asked(system="Be kind.", stop_sequences=["!"]))
    assert response.headers["request-id"] == response.headers["x-request-id"]
    answer = response.json()
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "There are three."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 3,
        },
    }
    (job,) = backend.jobs
    assert [turn["role"] for turn in job.prompt] == ["system", "user"]
    assert (job.options["max_new_tokens"], job.options["stop"]) == (20, ("!",))


def test_a_stream_adds_up_to_the_whole(client):
    text = client.post(PATH, json=asked(stream=True)).text
    events = events_of(text)
    names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert (names[0], names[-1]) == ("message_start", "message_stop")
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == "There are three."


def test_a_call_comes_whole_and_in_pieces(client, backend):
    backend.words = CALL
    body = asked(tools=[TOOL], tool_choice={"type": "tool", "name": "tell"})
    answer = client.post(PATH, json=body).json()
    (block,) = answer["content"]
    assert (block["type"], block["name"]) == ("tool_use", "tell")
    assert (block["input"], answer["stop_reason"]) == ({"colour": "red"}, "tool_use")
    events = events_of(client.post(PATH, json=body | {"stream": True}).text)
    pieces = [
        each["delta"]["partial_json"] for each in events if each["type"] == "content_block_delta"
    ]
    assert "".join(pieces) == '{"colour": "red"}'


def test_tokens_are_counted_without_an_answer(client, backend):
    body = asked(system="Be kind.")
    del body["max_tokens"]
    assert client.post(f"{PATH}/count_tokens", json=body).json() == {"input_tokens": 3}
    assert backend.jobs == []


@pytest.mark.parametrize(
    ("fields", "status", "kind", "named"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"shoes": 2}, 400, "invalid_request_error", "shoes"),
        ({"thinking": {"type": "enabled"}}, 400, "invalid_request_error", "thinking.type"),
        ({"tools": [TOOL]}, 400, "invalid_request_error", "tool_choice"),
        ({"model": "other"}, 404, "not_found_error", "other"),
    ],
)
def test_errors_have_anthropics_body(client, fields, status, kind, named):
    response = client.post(PATH, json=asked(**fields))
    assert response.status_code == status
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert named in body["error"]["message"]


def test_a_key_is_read_from_either_header():
    with TestClient(fake_app(api_key=("secret",))) as client:
        for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
            assert client.post(PATH, json=asked(), headers=headers).status_code == 200
        response = client.post(PATH, json=asked())
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"


def test_an_error_in_the_middle_ends_the_stream(client, backend):
    backend.breaks = refusal("internal_error", 500)
    text = client.post(PATH, json=asked(stream=True)).text
    assert "event: error\n" in text
    last = events_of(text)[-1]
    assert last == {"type": "error", "error": {"type": "api_error", "message": "It cannot be."}}


def test_lenient_forgets_tools_and_thinking():
    with TestClient(fake_app(lenient=True)) as client:
        body = asked(tools=[TOOL], thinking={"type": "adaptive"}, shoes=2)
        assert client.post(PATH, json=body).json()["content"][0]["text"] == "There are three."
