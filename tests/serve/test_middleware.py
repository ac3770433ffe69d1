"""Keys, limits, ids and the log, before any route."""

import asyncio
import io
import json
import re
import threading

import pytest
from starlette.testclient import TestClient

from minicpmv.serve import access_log, middleware
from minicpmv.serve.access_log import AccessLog, LineWriter
from minicpmv.serve.access_log import Exchange as Record

from ..helpers.serving import QUESTION, Exchange, FakeBackend, fake_app

CHAT = "/v1/chat/completions"


def ask(app, headers=None, **request):
    with TestClient(app) as client:
        request = {"json": QUESTION} | request
        return client.post(CHAT, headers=headers or {}, **request)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic two"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer one"}, 200),
        ({"authorization": "bearer two"}, 200),
        ({"x-api-key": "two"}, 200),
        ({"x-api-key": "schlüssel".encode()}, 200),
    ],
)
def test_keys(headers, status):
    app = fake_app(api_key=("one", "two", "schlüssel"))
    response = ask(app, headers)
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("opens", "status"), [(False, 401), (True, 200)])
def test_health_is_open_and_metrics_are_by_a_setting(opens, status):
    with TestClient(fake_app(api_key=("one",), open_metrics=opens)) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/metrics").status_code == status
        assert client.get("/v1/models").status_code == 401
        assert client.get("/openapi.json").status_code == 401


def test_a_body_over_the_limit_is_refused_by_its_header_and_by_counting():
    app = fake_app(max_body=2000)
    big = json.dumps({**QUESTION, "user": "x" * 3000}).encode()

    def parts():
        yield big[:1000]
        yield big[1000:]

    for response in (ask(app, json=None, content=big), ask(app, json=None, content=parts())):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"
        assert "2000 (--max-body)" in response.json()["error"]["message"]


def test_a_request_has_the_id_that_its_client_gave():
    app = fake_app()
    assert ask(app, {"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for odd in ("a b", "x" * 200, 'a"b'):
        made = ask(app, {"x-request-id": odd}).headers["x-request-id"]
        assert made != odd
        assert made.isalnum()


def test_pages_may_ask_from_the_origins_that_are_named():
    with TestClient(fake_app(cors_origin=("https://a.example",))) as client:
        asks = {"origin": "https://a.example", "access-control-request-method": "POST"}
        assert client.options(CHAT, headers=asks).status_code == 200
        refused = client.post(CHAT, json={}, headers={"origin": "https://a.example"})
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        theirs = client.options(CHAT, headers=asks | {"origin": "https://b.example"})
        assert theirs.status_code == 400
        assert theirs.json()["error"]["code"] == "cors_refused"
        assert "access-control-allow-origin" not in theirs.headers
        other = client.post(CHAT, json=QUESTION, headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    with TestClient(fake_app()) as client:
        assert client.options(CHAT, headers=asks).status_code == 405


def test_more_requests_than_may_wait_are_refused_at_once():
    async def run():
        backend = FakeBackend()
        backend.waits = asyncio.Event()
        app = fake_app(backend, max_num_seqs=1, max_queue=1)
        running = [Exchange(app) for _ in range(2)]
        await backend.started.wait()
        refused = await Exchange(app).end()
        assert refused.status == 429
        assert refused.json["error"]["code"] == "queue_full"
        assert refused.headers["retry-after"] == "1"
        assert (await Exchange(app, "/v1/models", b"", "GET").end()).status == 200
        backend.waits.set()
        assert [(await each.end()).status for each in running] == [200, 200]
        assert (await Exchange(app).end()).status == 200

    asyncio.run(run())


def test_a_body_that_never_comes_does_not_keep_its_place(monkeypatch):
    monkeypatch.setattr(middleware, "SILENCE_S", 0.01)

    async def run():
        request = Exchange(fake_app(), body=None)
        await request.end()
        assert request.status == 408
        assert request.json["error"]["code"] == "timeout"

    asyncio.run(run())


def test_a_client_that_goes_before_it_has_sent_all_is_no_fault_of_ours(caplog):
    async def run():
        app = fake_app()
        request = Exchange(app, body=None)
        request.hang_up()
        await request.end()
        page = app.state.server.metrics.render()[0].decode()
        assert 'minicpmv:request_errors_total{code="client_gone"} 1.0' in page
        assert "internal_error" not in page
        assert request.status is None

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_never_reads_does_not_keep_its_place(monkeypatch, streams):
    class Stuck(Exchange):
        async def _send(self, message):
            await asyncio.Event().wait()

    monkeypatch.setattr(middleware, "SILENCE_S", 0.01)

    async def run():
        app = fake_app()
        await Stuck(app, body={**QUESTION, "stream": streams}).end()
        assert app.state.server.num_posts == 0

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_unexpected_error_of_a_route_is_one_body_too(caplog):
    app = fake_app()
    app.add_api_route("/broken", lambda: 1 / 0)
    with TestClient(app) as client:
        response = client.get("/broken")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text


def test_one_line_for_each_request(capsys):
    ask(fake_app(), {"x-request-id": "abc"})
    line = capsys.readouterr().err.strip()
    assert " POST /v1/chat/completions 200 model=fake tokens=7+3 seconds=" in line
    assert line.endswith(" id=abc")


def test_lines_of_json(capsys):
    ask(fake_app(log_format="json"), {"x-request-id": "abc"})
    fields = json.loads(capsys.readouterr().err)
    assert fields["status"] == 200
    assert fields["model"] == "fake"
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (7, 3)
    assert fields["seconds"] >= 0
    assert (fields["method"], fields["path"]) == ("POST", "/v1/chat/completions")
    assert (fields["request_id"], "error" in fields) == ("abc", False)


def test_no_client_writes_a_line_of_its_own():
    out = io.StringIO()
    log = AccessLog("text", LineWriter(out))
    log.write(Record("id", "GET", "/a\nb c", model="x\r\ny", status=404))
    log.lines.flush()
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_client_writes_a_long_line(form):
    out = io.StringIO()
    log = AccessLog(form, LineWriter(out))
    log.write(Record("id", "GET", "/" + "a" * 10**6, model="x" * 10**6, status=404))
    log.lines.flush()
    assert len(out.getvalue()) < 1000


def test_an_error_repeats_little_of_what_was_sent():
    fields = [{"model": "x" * 10**5}, {"k" * 10**5: 1}, {"stop": ["x" * 10**5]}]
    for each in fields:
        answer = ask(fake_app(), json=QUESTION | each)
        assert answer.status_code in (400, 404)
        assert len(answer.text) < 3000
        assert "expected" in answer.text or "remove it" in answer.text or "Served" in answer.text
    with TestClient(fake_app()) as client:
        assert len(client.get("/" + "a" * 60_000).text) < 3000


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "GZIP"])
def test_a_compressed_body_is_refused(coding):
    answer = ask(fake_app(), {"content-encoding": coding})
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_encoding"
    assert coding.lower() in answer.json()["error"]["message"]
    assert ask(fake_app(), {"content-encoding": "identity"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/messages", "/models/v1/messages"])
def test_anthropics_name_of_an_id_is_there_behind_a_proxy(path):
    with TestClient(fake_app(root_path="/models")) as client:
        answer = client.post(path, json={})
    assert answer.json()["type"] == "error"
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


def test_a_pipe_that_nobody_reads_stops_nothing(monkeypatch):
    monkeypatch.setattr(access_log, "MOST_LINES", 3)
    reads = threading.Event()
    written = []

    class Pipe(io.StringIO):
        def write(self, text):
            reads.wait()
            written.append(text)
            return len(text)

    lines = LineWriter(Pipe())
    for number in range(100):
        lines.write(f"line {number}")
    reads.set()
    lines.flush()
    lines.write("last")
    lines.flush()
    found = "".join(written).splitlines()
    assert found[0] == "line 0"
    assert found[-1] == "last"
    assert re.fullmatch(r"9\d lines were dropped, since nobody read them", found[-2])
    assert len(found) <= 6


def test_errors_are_counted_once():
    backend = FakeBackend()
    app = fake_app(backend)
    with TestClient(app) as client:
        client.post(CHAT, json={**QUESTION, "model": "other"})
        backend.refuses = RuntimeError("broken")
        client.post(CHAT, json=QUESTION)
        page = client.get("/metrics").text
    assert 'minicpmv:request_errors_total{code="model_not_found"} 1.0' in page
    assert 'minicpmv:request_errors_total{code="internal_error"} 1.0' in page
