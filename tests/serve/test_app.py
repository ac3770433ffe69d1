"""The application over a fake backend, by the client of Starlette."""

import json

import pytest
from starlette.testclient import TestClient

from ..helpers.serving import QUESTION, FakeBackend, events_of, fake_app, refusal

CHAT = "/v1/chat/completions"


def asked(**fields):
    return {**QUESTION, **fields}


def test_a_whole_answer_has_every_field_that_clients_read(client, backend):
    answer = client.post(CHAT, json=asked()).json()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "fake"
    assert isinstance(answer["created"], int)
    assert answer["system_fingerprint"]
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "There are three.", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert backend.jobs[0].prompt == [{"role": "user", "content": "How many?"}]
    assert backend.closed == 1


def test_a_stream_has_the_role_first_and_the_usage_last(client):
    body = asked(stream=True, stream_options={"include_usage": True}, n=2, temperature=1.0)
    response = client.post(CHAT, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    chunks = events_of(response.text)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    for index in range(2):
        mine = [
            c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index
        ]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in mine) == "There are three."
        assert [c["finish_reason"] for c in mine] == [None] * 4 + ["stop"]
        assert mine[-1]["delta"] == {}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 13
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_a_stream_tells_no_usage_unless_asked(client):
    chunks = events_of(client.post(CHAT, json=asked(stream=True)).text)
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_a_limit_of_time_is_told_as_one_of_length():
    app = fake_app(FakeBackend(finish_reason="time"))
    with TestClient(app) as client:
        assert client.post(CHAT, json=asked()).json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/openbmb/none", 404, "model_not_found"),
        ("POST", CHAT, 400, "invalid_json"),
    ],
)
def test_every_layer_has_the_same_body_of_an_error(client, method, path, status, code):
    response = client.request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(response.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", " Did you mean /v1/chat/completions?"),
        ("/v1/v1/messages", " Did you mean /v1/messages?"),
        ("/v1/api/chat", " Did you mean /api/chat?"),
        ("/v1/chat/completion", " Did you mean /v1/chat/completions?"),
        ("/nowhere", " GET /openapi.json lists what there is."),
        ("/v1/embeddings", " These models answer questions and have no embeddings."),
        (
            "/v1/responses/resp_1",
            " This server is stateless: nothing is kept from one request to the next.",
        ),
    ],
)
def test_a_path_that_is_not_there_says_why_or_what_was_meant(client, path, meant):
    message = client.get(path).json()["error"]
    message = message if isinstance(message, str) else message["message"]
    assert message == f"There is no {path} here.{meant}"


def test_errors_have_the_form_of_the_protocol_of_their_path(client):
    anthropic = client.get("/v1/messages/nothing").json()
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "not_found_error"
    assert isinstance(client.get("/api/nothing").json()["error"], str)


def test_an_unknown_model_is_named(client):
    error = client.post(CHAT, json=asked(model="gpt-5")).json()["error"]
    assert error["code"] == "model_not_found"
    assert "'gpt-5' is not served here. Served: fake." in error["message"]
    assert error["param"] == "model"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_backend_refuses_has_its_status(client, backend, stream):
    backend.refuses = refusal("queue_full", 429, retry_after=3)
    response = client.post(CHAT, json=asked(stream=stream))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [False, True])
def test_our_own_fault_is_a_500_without_internals(client, backend, stream, caplog):
    backend.refuses = RuntimeError("/secret/path")
    response = client.post(CHAT, json=asked(stream=stream), headers={"x-request-id": "req-5"})
    assert response.status_code == 500
    assert "req-5" in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert "/secret/path" in caplog.text


def test_an_error_in_mid_stream_is_an_event_and_the_last_one(client, backend):
    backend.breaks = refusal("unavailable", 503)
    response = client.post(CHAT, json=asked(stream=True))
    assert response.status_code == 200
    events = events_of(response.text)
    assert events[-1]["error"]["code"] == "unavailable"
    assert "[DONE]" not in response.text
    backend.breaks = RuntimeError("/secret/path")
    events = events_of(client.post(CHAT, json=asked(stream=True)).text)
    assert events[-1]["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(events)


def test_models_are_listed_whether_loaded_or_not(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["fake"]
    one = client.get("/v1/models/fake").json()
    assert (one["object"], one["is_loaded"], one["max_model_len"]) == ("model", True, 4096)
    assert one["defaults"] == {"do_sample": False}


def test_health_and_version_need_no_model(client):
    assert client.get("/health").status_code == 200
    assert client.head("/health").status_code == 200
    assert client.get("/ping").status_code == 200
    assert client.get("/version").json()["version"]
    assert client.get("/load").json() == {"server_load": 0}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/fake", "/metrics", "/version", "/api/tags", "/api/ps"]
)
def test_head_is_get_without_the_body(client, path):
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


def test_head_of_what_is_not_there_or_only_takes_a_body(client):
    assert (client.head("/v1/model").status_code, client.head(CHAT).status_code) == (404, 405)
    assert client.head("/v1/models/other").status_code == 404
    assert not [
        path for path, of in client.get("/openapi.json").json()["paths"].items() if "head" in of
    ]


def test_bodies_are_in_the_openapi_document(client):
    document = client.get("/openapi.json").json()
    body = document["paths"][CHAT]["post"]["requestBody"]
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schemas = document["components"]["schemas"]
    assert "messages" in schemas[name]["properties"]
    references = set(json.dumps(document).split('"#/components/schemas/')[1:])
    assert {each.partition('"')[0] for each in references} <= set(schemas)


def test_names_of_models_are_in_the_openapi_document(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    fields = {name: of["properties"]["model"] for name, of in schemas.items()
              if "enum" in json.dumps(of.get("properties", {}).get("model"))}  # fmt: skip
    optional = {name: field for name, field in fields.items() if "default" in field}
    assert set(optional) == {"DetokenizeRequest", "ShowRequest", "TokenizeRequest"}
    for field in optional.values():  # null, their default, is one of what they may be
        assert field["anyOf"] == [{"type": "string", "enum": ["fake"]}, {"type": "null"}]
        assert "enum" not in field
    for name in set(fields) - set(optional):
        assert fields[name]["enum"] == ["fake"]


def test_streams_are_in_the_openapi_document(client):
    paths = client.get("/openapi.json").json()["paths"]
    kinds = {path: set(each["post"]["responses"]["200"]["content"])
             for path, each in paths.items() if "post" in each}  # fmt: skip
    streamed = {"application/json", "text/event-stream"}
    for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/messages"):
        assert kinds[path] == streamed
    for path in ("/api/chat", "/api/generate"):
        assert kinds[path] == {"application/json", "application/x-ndjson"}
    assert kinds["/tokenize"] == {"application/json"}


def test_the_schema_of_a_stream_is_right_for_the_text_and_for_each_event(client):
    document = client.get("/openapi.json").json()
    content = document["paths"][CHAT]["post"]["responses"]["200"]["content"]
    schema = content["text/event-stream"]["schema"]
    assert not {"type", "properties", "items"} & set(schema)
    assert schema["description"]


def test_a_proxy_may_show_the_server_under_a_path():
    app = fake_app(root_path="/vision")
    with TestClient(app) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/vision/v1/models").status_code == 200


def test_what_is_no_message_is_called_as_in_json(client):
    for path, fields in (
        (CHAT, {"messages": [None]}),
        ("/v1/responses", {"input": [None]}),
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": [None]}]}),
    ):
        answer = client.post(path, json={"model": "nano", **fields})
        assert answer.status_code == 400
        assert "it is null; expected an object" in answer.json()["error"]["message"]
