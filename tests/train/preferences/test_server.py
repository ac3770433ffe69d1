"""A judge behind an address, against a server of one answer."""

import http.client
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from PIL import Image

from minicpmv.train.preferences.server import Server


class Handler(BaseHTTPRequestHandler):
    answer: dict[str, Any] = {}
    raw = b""  # instead of the answer
    status = 200
    asked: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        body = self.raw or json.dumps(self.answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Handler.asked.clear()
    Handler.status = 200
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def choices(tokens: dict[str, float] | None, text: str = "") -> dict[str, Any]:
    top = [{"token": t, "logprob": math.log(p)} for t, p in (tokens or {}).items()]
    logprobs = {"content": [{"top_logprobs": top}]} if tokens else None
    return {"choices": [{"message": {"content": text}, "logprobs": logprobs}]}


def test_probabilities_of_one_token(url: str) -> None:
    Handler.answer = choices({"Yes": 0.4, " yes": 0.2, "no": 0.3, "nothing": 0.1})
    picture = {"type": "image", "image": Image.new("RGB", (4, 4), "red")}
    (found,) = Server(url, "m").yes_or_no([picture], ["Is it red?"])
    assert found == pytest.approx((0.6, 0.3))
    (body,) = Handler.asked
    assert (body["model"], body["max_tokens"], body["logprobs"]) == ("m", 1, True)
    shown, asked = body["messages"][0]["content"]
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert asked == {"type": "text", "text": "Is it red?"}


def test_texts(url: str) -> None:
    Handler.answer = choices(None, "- A cat.")
    assert Server(url).complete("Split it.") == "- A cat."


def test_a_server_without_probabilities(url: str) -> None:
    Handler.answer = choices(None, "yes")
    with pytest.raises(ValueError, match="gave no logprobs"):
        Server(url).yes_or_no([], ["?"])


def test_refusals(url: str) -> None:
    Handler.answer, Handler.status = {"error": "no such model"}, 404
    with pytest.raises(OSError, match=r"answered 404: .*no such model"):
        Server(url).complete("?")
    Handler.answer, Handler.status = {"odd": 1}, 200
    with pytest.raises(ValueError, match="gave no choices"):
        Server(url).complete("?")
    with pytest.raises(OSError, match="cannot be reached"):
        Server("http://127.0.0.1:9").complete("?")


def test_videos_are_refused() -> None:
    with pytest.raises(ValueError, match="pictures only"):
        Server("http://127.0.0.1:9").yes_or_no([{"type": "video", "video": "x"}], ["?"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "no JSON"),
        (b'{"choices": [{"message": {"content": "Yes"}, "logprobs": [1]}]}', "no logprobs"),
        (b'{"choices": [{"message": "Yes"}]}', "no message"),
        (
            b'{"choices": [{"message": {}, "logprobs": {"content": [{"top_logprobs": "x"}]}}]}',
            "another form",
        ),
        (
            b'{"choices": [{"message": {}, "logprobs": {"content": [{"top_logprobs": '
            b'[{"token": "yes", "logprob": NaN}]}]}}]}',
            "no probabilities",
        ),
    ],
)
def test_answers_of_another_form_name_the_address(
    url: str, monkeypatch: pytest.MonkeyPatch, body: bytes, message: str
) -> None:
    monkeypatch.setattr(Handler, "raw", body)
    with pytest.raises(ValueError, match=f"{url}.*{message}"):
        Server(url).yes_or_no([], ["Is it?"])


def test_a_server_that_breaks_off_or_hangs_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []

    def broken(*args: Any, **options: Any) -> Any:
        raise errors[-1]

    monkeypatch.setattr("urllib.request.urlopen", broken)
    for error, message in (
        (TimeoutError("timed out"), "has not answered in 3 s"),
        (http.client.IncompleteRead(b"{"), "broke off"),
        (ConnectionResetError("reset"), "broke off"),
    ):
        errors.append(error)
        with pytest.raises(OSError, match=message):
            Server(url, timeout_s=3).yes_or_no([], ["Is it?"])
