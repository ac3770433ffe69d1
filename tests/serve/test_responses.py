"""`/v1/responses` over a fake backend."""

from dataclasses import replace

import openai
import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from minicpmv.engine.answer import TokenLogprob
from minicpmv.serve.jobs import Piece

from ..helpers.serving import FakeBackend, events_of, fake_app, refusal

PATH = "/v1/responses"
CALL = ('{"name": "tell", ', '"arguments": {"colour"', ': "red"}}')
TOOL = {"type": "function", "name": "tell", "parameters": {"type": "object"}}


def asked(**fields):
    return {"model": "fake", "input": "How many?", **fields}


def kinds(events):
    return [event["type"].removeprefix("response.") for event in events]


def test_a_whole_response_has_every_field_that_clients_read(client, backend):
    body = asked(instructions="Be kind.", metadata={"a": "b"}, max_output_tokens=20, store=False)
    answer = client.post(PATH, json=body).json()
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"], answer["model"]) == (
        "response",
        "completed",
        "fake",
    )
    (message,) = answer["output"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert message["content"][0]["type"] == "output_text"
    assert message["content"][0]["text"] == "There are three."
    assert answer["usage"]["total_tokens"] == 10
    assert (answer["instructions"], answer["metadata"]) == ("Be kind.", {"a": "b"})
    assert (answer["store"], answer["max_output_tokens"]) == (False, 20)
    (job,) = backend.jobs
    assert [turn["role"] for turn in job.prompt] == ["system", "user"]
    assert job.options["max_new_tokens"] == 20


def test_a_stream_adds_up_to_the_whole(client):
    response = client.post(PATH, json=asked(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert kinds(events)[:4] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
    ]
    assert kinds(events)[-1] == "completed"
    names = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = events[-1]["response"]["output"][0]["content"][0]["text"]
    assert text == "".join(event["delta"] for event in events if "delta" in event)
    assert text == "There are three."


def test_a_call_comes_whole_and_in_pieces(client, backend):
    backend.words = CALL
    body = asked(tools=[TOOL], tool_choice="required")
    (call,) = client.post(PATH, json=body).json()["output"]
    assert call["type"] == "function_call"
    assert (call["name"], call["arguments"]) == ("tell", '{"colour": "red"}')
    assert call["call_id"].startswith("call_")
    events = events_of(client.post(PATH, json=body | {"stream": True}).text)
    pieces = [each["delta"] for each in events if each["type"].endswith("arguments.delta")]
    assert "".join(pieces) == '{"colour": "red"}'
    assert backend.jobs[0].options["constraint"].kind == "json_schema"


def test_tokens_of_a_call_make_no_message():
    class WithTokens(FakeBackend):
        async def answer(self, job):
            async for event in super().answer(job):
                is_piece = isinstance(event, Piece)
                yield replace(event, tokens=[TokenLogprob(1, "x", -1.0)]) if is_piece else event

    with TestClient(fake_app(WithTokens(words=CALL))) as client:
        body = asked(tools=[TOOL], tool_choice="required", top_logprobs=1, stream=True)
        last = events_of(client.post(PATH, json=body).text)[-1]
    assert [item["type"] for item in last["response"]["output"]] == ["function_call"]


def test_a_schema_is_kept_to(client, backend):
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    answer = client.post(PATH, json=asked(text={"format": form})).json()
    assert answer["text"]["format"]["schema"] == {"type": "object"}
    assert backend.jobs[0].options["constraint"].kind == "json_schema"


def test_a_wrong_schema_is_named_as_the_client_sent_it(client):
    form = {"type": "json_schema", "name": "n", "schema": {"type": "objekt"}}
    response = client.post(PATH, json=asked(text={"format": form}))
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("text.format.schema")


def test_an_error_in_the_middle_ends_the_stream(client, backend):
    backend.breaks = refusal("internal_error", 500)
    events = events_of(client.post(PATH, json=asked(stream=True)).text)
    assert kinds(events)[-2:] == ["error", "failed"]
    assert events[-2]["error"]["code"] == events[-2]["code"] == "internal_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_before_the_answer_has_its_status_and_the_clients_field(client, backend, stream):
    backend.refuses = refusal("context_length_exceeded", param="messages")
    response = client.post(PATH, json=asked(stream=stream))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input"


def test_a_picture_that_is_none_is_named_as_the_client_sent_it(client):
    part = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    body = asked(input=[{"role": "user", "content": [part]}])
    error = client.post(PATH, json=body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_image", "input[0].content[0].image_url")


def test_lenient_keeps_nothing_and_says_so_by_answering():
    with TestClient(fake_app(lenient=True)) as client:
        body = asked(store=True, reasoning={"effort": "low"}, shoes=2)
        answer = client.post(PATH, json=body).json()
        assert answer["store"] is False
        counted = client.get("/metrics").text
        for name in ("store", "reasoning", "other"):
            assert f'"{name}"' in counted


class Seen(BaseModel):
    colour: str


def test_openai_reads_it(client, backend):
    api = openai.OpenAI(base_url="http://testserver/v1", api_key="-", http_client=client).responses
    assert api.create(model="fake", input="How many?").output_text == "There are three."
    with api.stream(model="fake", input="How many?") as events:
        assert [event.type for event in events][-1] == "response.completed"
        assert events.get_final_response().output_text == "There are three."
    backend.finish_reason = "length"
    cut = api.create(model="fake", input="How many?", max_output_tokens=3)
    assert cut.incomplete_details.reason == "max_output_tokens"
    backend.finish_reason, backend.words = "stop", ('{"colour": ', '"red"}')
    assert api.parse(model="fake", input="Which?", text_format=Seen).output_parsed.colour == "red"
    with pytest.raises(openai.BadRequestError, match="stateless"):
        api.create(model="fake", input="How many?", previous_response_id="resp_1")
    backend.breaks = refusal("internal_error", 500)
    with pytest.raises(openai.APIError, match="It cannot be"):
        list(api.create(model="fake", input="How many?", stream=True))
