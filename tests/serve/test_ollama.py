"""Ollama's `/api` over a fake backend."""

import json

import pytest
from starlette.testclient import TestClient

from ..helpers.serving import FakeBackend, fake_app, refusal

CHAT, GENERATE = "/api/chat", "/api/generate"
TOOL = {"type": "function", "function": {"name": "tell", "parameters": {"type": "object"}}}


def asked(**fields):
    turn = {"role": "user", "content": "How many?"}
    return {"model": "fake", "messages": [turn], **fields}


def lines_of(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_whole_answer_has_every_field_that_clients_read(client, backend):
    options = {"temperature": 0, "num_predict": 20, "stop": ["!"], "num_ctx": 512}
    answer = client.post(CHAT, json=asked(stream=False, options=options, tools=[])).json()
    assert answer["model"] == "fake"
    assert answer["created_at"].endswith("Z")
    assert answer["message"] == {"role": "assistant", "content": "There are three."}
    assert (answer["done"], answer["done_reason"]) == (True, "stop")
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (7, 3)
    assert answer["total_duration"] >= answer["eval_duration"] >= 0
    (job,) = backend.jobs
    assert (job.options["max_new_tokens"], job.options["stop"]) == (20, ("!",))


def test_an_answer_is_streamed_unless_it_is_said(client):
    *pieces, last = lines_of(client.post(CHAT, json=asked()))
    assert "".join(piece["message"]["content"] for piece in pieces) == "There are three."
    assert [piece["done"] for piece in pieces] == [False] * 3
    assert (last["done"], last["message"]["content"]) == (True, "")
    body = {"model": "fake", "prompt": "How many?"}
    *pieces, last = lines_of(client.post(GENERATE, json=body))
    assert "".join(piece["response"] for piece in pieces) == "There are three."


def test_names_have_a_tag_or_none(client):
    assert client.post(CHAT, json=asked(model="fake:latest", stream=False)).json()["model"] == (
        "fake:latest"
    )
    (listed,) = client.get("/api/tags").json()["models"]
    assert listed["name"] == listed["model"] == "fake:latest"
    (loaded,) = client.get("/api/ps").json()["models"]
    assert loaded["context_length"] == 4096
    shown = client.post("/api/show", json={"name": "fake:latest"}).json()
    assert shown["capabilities"] == ["completion", "vision"]
    assert shown["model_info"]["minicpmv.context_length"] == 4096


def test_a_raw_prompt_has_no_template(client, backend):
    body = {"model": "fake", "prompt": "One, two,", "raw": True, "stream": False}
    assert client.post(GENERATE, json=body).json()["response"] == "There are three."
    assert backend.jobs[0].prompt == "One, two,"
    response = client.post(GENERATE, json=body | {"system": "Be kind."})
    assert response.status_code == 400
    assert response.json()["error"].startswith("system ")


def test_a_request_without_a_question_loads_the_model(client, backend):
    for path, body in ((GENERATE, {"model": "fake"}), (CHAT, {"model": "fake", "messages": []})):
        answer = client.post(path, json=body).json()
        assert (answer["done"], answer["done_reason"]) == (True, "load")
        assert client.post(path, json=body | {"keep_alive": 0}).status_code == 400
    assert backend.jobs == []


def test_calls_come_with_whole_arguments(client, backend):
    class Template(FakeBackend):
        """Whose template knows tools."""

        def models(self):
            (card,) = super().models()
            return [type(card)(**{**vars(card), "supports_tools": True})]

    backend = Template(words=('{"name": "tell", ', '"arguments": {"colour"', ': "red"}}'))
    wanted = {"index": 0, "name": "tell", "arguments": {"colour": "red"}}
    with TestClient(fake_app(backend)) as able:
        whole = able.post(CHAT, json=asked(stream=False, tools=[TOOL])).json()
        assert whole["message"]["tool_calls"][0]["function"] == wanted
        assert whole["message"]["content"] == ""
        call, last = lines_of(able.post(CHAT, json=asked(tools=[TOOL])))
        assert call["message"]["tool_calls"][0]["function"] == wanted
        assert last["done"] is True
    response = client.post(CHAT, json=asked(tools=[TOOL]))  # whose template knows none
    assert response.status_code == 400
    assert response.json()["error"].startswith("tools has no effect: the chat template of fake")
    assert "tool_choice" not in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "fields", "status", "named"),
    [
        (CHAT, {"model": "other"}, 404, "other"),
        (CHAT, {"options": {"shoes": 2}}, 400, "options.shoes"),
        (CHAT, {"format": {"type": "objekt"}}, 400, "format"),
        (CHAT, {"think": True}, 400, "think"),
        ("/api/show", {}, 400, "messages"),
        ("/api/embed", {}, 400, "embeddings"),
        ("/api/pull", {}, 400, "minicpmv serve"),
        ("/api/other", {}, 404, "/api/other"),
    ],
)
def test_errors_are_one_text(client, path, fields, status, named):
    response = client.post(path, json=asked(**fields))
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert named in response.json()["error"]


def test_an_error_in_the_middle_is_the_last_line(client, backend):
    backend.breaks = refusal("internal_error", 500)
    assert lines_of(client.post(CHAT, json=asked()))[-1] == {"error": "It cannot be."}


def test_clients_see_that_there_is_a_server(client):
    assert client.get("/").text == "minicpmv is running"
    assert client.head("/").status_code == 200
    assert client.get("/api/version").json()["version"]
