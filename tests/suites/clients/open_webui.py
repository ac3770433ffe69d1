"""Open WebUI 0.12: its requests as it writes them; the program itself is too large to install.

To an OpenAI address and to an Ollama address; what it reads of the answers is checked.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from cases import (
    BASE,
    KEY,
    MODEL,
    PICTURE_BASE64,
    PICTURE_URL,
    QUESTION,
    case,
    expect,
    is_colour,
    run_cases,
)

NAME = "Open WebUI 0.12 (requests)"
HEADERS = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "X-OpenWebUI-User-Name": "a",
    "X-OpenWebUI-User-Id": "1",
    "X-OpenWebUI-User-Role": "admin",
}
LOOK = {
    "role": "user",
    "content": [
        {"type": "image_url", "image_url": {"url": PICTURE_URL}},
        {"type": "text", "text": QUESTION},
    ],
}


def lines(path: str, body: dict[str, Any] | None = None) -> Iterator[str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data, HEADERS)
    with urllib.request.urlopen(request) as response:
        for line in response:
            yield line.decode().rstrip("\n")


def whole(path: str, body: dict[str, Any] | None = None) -> Any:
    return json.loads("\n".join(lines(path, body)))


@case(NAME, "models")
def models() -> None:
    expect([model["id"] for model in whole("/v1/models")["data"]], [MODEL])


@case(NAME, "stream")
def stream() -> None:
    body = {
        "stream": True,
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be kind."}, LOOK],
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
    }
    events = [line.removeprefix("data: ") for line in lines("/v1/chat/completions", body) if line]
    expect(events[-1], "[DONE]")
    chunks = [json.loads(event) for event in events[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    is_colour("".join(delta.get("content") or "" for delta in deltas))
    assert chunks[-1]["usage"]["total_tokens"]


@case(NAME, "plain")
def title() -> None:
    prompt = (
        "### Task:\nGenerate a title for the chat.\n<chat_history>\nUSER: Hello\n</chat_history>"
    )
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "stream": False,
        "max_completion_tokens": 50,
    }
    assert whole("/v1/chat/completions", body)["choices"][0]["message"]["content"]


@case(NAME, "Ollama models")
def ollama_models() -> None:
    (model,) = whole("/api/tags")["models"]
    expect(model["model"], f"{MODEL}:latest")
    assert model["name"]
    assert model["digest"]
    assert whole("/api/version")["version"]
    expect([each["model"] for each in whole("/api/ps")["models"]], [f"{MODEL}:latest"])
    assert whole("/api/show", {"model": model["model"]})["details"]


@case(NAME, "Ollama stream")
def ollama_stream() -> None:
    body = {
        "model": f"{MODEL}:latest",
        "messages": [{"role": "user", "content": QUESTION, "images": [PICTURE_BASE64]}],
        "stream": True,
        "options": {"temperature": 0.0, "num_ctx": 4096},
        "keep_alive": "5m",
    }
    found = [json.loads(line) for line in lines("/api/chat", body)]
    is_colour("".join(line["message"]["content"] for line in found))
    expect([line["done"] for line in found][-1], True)
    assert found[-1]["eval_count"]


@case(NAME, "bad parameter")
def bad_parameter() -> None:
    for path, body in (
        ("/v1/chat/completions", {"model": "other", "messages": [LOOK]}),
        ("/api/chat", {"model": "other", "messages": []}),
    ):
        try:
            whole(path, body)
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read())["error"]
            assert "other" in (answer if isinstance(answer, str) else answer["message"])
        else:
            raise AssertionError("it was answered, expected an error about other")


run_cases()
