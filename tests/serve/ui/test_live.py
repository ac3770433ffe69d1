"""The live tab's routes: frames in, lines out, nothing of other pages."""

import base64
import json

import pytest

pytest.importorskip("httpx2")

from fastapi import FastAPI
from starlette.testclient import TestClient

from minicpmv.serve.ui.client import Client
from minicpmv.serve.ui.live import MAX_BYTES, MAX_FRAMES, live_routes

from ...helpers.uploads import png

FRAME = f"data:image/jpeg;base64,{base64.b64encode(png()).decode()}"
BODY = {"model": "tiny", "question": "What?", "frames": [FRAME], "max_tokens": 32}


@pytest.fixture
def page(client):
    app = FastAPI()
    app.include_router(live_routes(client))
    with TestClient(app) as page:
        yield page


def test_models_that_may_be_asked(page):
    assert page.get("/live/models").json() == {"models": ["tiny", "other"]}


def test_a_server_that_is_not_there_is_said():
    app = FastAPI()
    app.include_router(live_routes(Client("http://127.0.0.1:9")))
    with TestClient(app) as page:
        assert "cannot be reached" in page.get("/live/models").json()["error"]


def test_frames_are_answered_as_lines(page, server):
    response = page.post("/live/answer", json=BODY | {"frames": [FRAME] * 2})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(line.get("text", "") for line in lines) == " ".join(server.words)
    assert lines[-1] == {"end": "stop", "tokens": [100, 11]}
    (asked,) = server.asked
    parts = asked["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert parts[0]["image_url"] == {"url": FRAME, "detail": "low"}
    assert asked["max_tokens"] == 32


def test_what_the_server_refuses_is_a_line(page, server):
    server.refuses = "No."
    assert json.loads(page.post("/live/answer", json=BODY).text) == {"error": "No."}


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"question": " "},
        {"frames": []},
        {"frames": [FRAME] * (MAX_FRAMES + 1)},
        {"frames": ["https://example.org/a.jpg"]},
        {"frames": ["file:///etc/passwd"]},
        {"max_tokens": 0},
        {"max_tokens": 10**6},
        {"max_tokens": True},
    ],
)
def test_bodies_that_are_not_the_pages(change, page, server):
    response = page.post("/live/answer", json=BODY | change)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}
    assert not server.asked


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000])
def test_bodies_that_are_no_objects(data, page):
    headers = {"content-type": "application/json"}
    response = page.post("/live/answer", content=data, headers=headers)
    assert response.status_code == 400


def test_a_body_that_is_too_large(page):
    frame = "data:image/jpeg;base64," + "A" * MAX_BYTES
    response = page.post("/live/answer", json=BODY | {"frames": [frame]})
    assert "more than" in response.json()["error"]


def test_other_pages_may_not_ask(page, server):
    elsewhere = {"origin": "https://elsewhere.example"}
    assert page.post("/live/answer", json=BODY, headers=elsewhere).status_code == 400
    text = {"content-type": "text/plain"}
    assert page.post("/live/answer", content=json.dumps(BODY), headers=text).status_code == 400
    own = {"origin": "http://testserver"}
    assert page.post("/live/answer", json=BODY, headers=own).status_code == 200
    assert len(server.asked) == 1
