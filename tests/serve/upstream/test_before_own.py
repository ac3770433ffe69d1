"""`--engine vllm` before servers of this package: the same answers as from these directly."""

import base64
import io
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from PIL import Image, ImageDraw
from prometheus_client.parser import text_string_to_metric_families

from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings
from minicpmv.serve.upstream.backend import VllmBackend
from minicpmv.serve.upstream.client import httpx

from ...helpers.fake_vllm import serving


def picture(shape: str, color: str, size: tuple[int, int] = (120, 90)) -> str:
    image = Image.new("RGB", size, "white")
    getattr(ImageDraw.Draw(image), shape)((20, 20, 70, 70), fill=color)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def show(url: str, **rest: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **rest}}


RED, BLUE = picture("ellipse", "red"), picture("rectangle", "blue", (700, 500))
QUESTION = {"type": "text", "text": "What color is the shape?"}


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    """A server, and one before it."""
    with ExitStack() as stack:
        direct = stack.enter_context(serving(create_app(ServeSettings(dtype="float32"))))
        app = create_app(ServeSettings(engine="vllm", upstream=(direct,)))
        assert isinstance(app.state.server.backend, VllmBackend)
        yield direct, stack.enter_context(serving(app))


def post(url: str, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{url}{path}", json=body, timeout=60, trust_env=False)
    if body.get("stream"):
        lines = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [bare(json.loads(line)) for line in lines[:-1]]
    return answer.status_code, bare(answer.json())


class Near(float):
    """A number whose last digits depend on what was remembered of the prompt."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=1e-3, abs_tol=1e-3)

    __hash__ = float.__hash__


def bare(answer: Any) -> Any:
    """Without what differs from request to request."""
    if isinstance(answer, float):
        return Near(answer)
    if isinstance(answer, list):
        return [bare(each) for each in answer]
    if isinstance(answer, dict):
        return {name: bare(value) for name, value in answer.items() if name not in _DIFFERENT}
    return answer


_DIFFERENT = ("id", "created", "prompt_tokens_details", "input_tokens_details")


def joined(chunks: list[dict[str, Any]]) -> Any:
    """Of every answer its text, tokens and end; and the usage."""
    texts: dict[int, list[Any]] = {}
    usage = [chunk["usage"] for chunk in chunks if chunk.get("usage") and not chunk["choices"]]
    for chunk in chunks:
        for choice in chunk["choices"]:
            found = texts.setdefault(choice["index"], ["", [], None])
            found[0] += choice["delta"].get("content", "")
            found[1] += (choice["logprobs"] or {}).get("content", [])
            found[2] = choice["finish_reason"] or found[2]
    return texts, usage


CHATS: dict[str, dict[str, Any]] = {
    "picture": {"messages": [{"role": "user", "content": [show(RED), QUESTION]}]},
    "several": {
        "messages": [
            {"role": "user", "content": [show(RED), QUESTION]},
            {"role": "assistant", "content": "red"},
            {"role": "user", "content": [show(BLUE, detail="low"), show(RED), QUESTION]},
        ]
    },
    "slices": {
        "messages": [{"role": "user", "content": [show(BLUE), QUESTION]}],
        "mm_processor_kwargs": {"max_slice_nums": 2, "use_image_id": False},
    },
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "ids": {"logprobs": True, "top_logprobs": 1, "return_tokens_as_token_ids": True},
    "drawn": {"temperature": 1.0, "seed": 5, "top_p": 0.9, "n": 3},
    "system": {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    },
    "stop": {"stop": ["e"]},
    "short": {"max_tokens": 2},
    "choice": {"structured_outputs": {"choice": ["a circle", "a square"]}},
    "regex": {"structured_outputs": {"regex": "[a-d]{3}"}},
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "shape",
                "schema": {
                    "type": "object",
                    "properties": {"color": {"enum": ["red", "blue"]}},
                    "required": ["color"],
                    "additionalProperties": False,
                },
            },
        },
        "max_tokens": 40,
    },
    "penalties": {"presence_penalty": 1.0, "repetition_penalty": 1.5, "logit_bias": {"5": -3}},
    "beams": {"num_beams": 2},
}
PLAIN = {
    "model": "nano",
    "messages": [{"role": "user", "content": "What is a circle?"}],
    "max_tokens": 12,
}


@pytest.mark.parametrize("name", CHATS)
def test_chats_are_answered_alike(urls: tuple[str, str], name: str) -> None:
    body = {**PLAIN, **CHATS[name]}
    direct, before = (post(url, "/v1/chat/completions", body) for url in urls)
    assert direct[0] == 200
    assert before == direct


@pytest.mark.parametrize("name", ["picture", "logprobs", "drawn", "choice"])
def test_streams_are_alike(urls: tuple[str, str], name: str) -> None:
    body = {**PLAIN, **CHATS[name], "stream": True, "stream_options": {"include_usage": True}}
    direct, before = (post(url, "/v1/chat/completions", body) for url in urls)
    assert joined(before) == joined(direct)
    assert joined(direct)[0][0][0]


def test_each_chunk_may_tell_the_usage_so_far(urls: tuple[str, str]) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**PLAIN, "n": 2, "temperature": 1, "seed": 1, "stream": True, "stream_options": options}
    direct, before = (post(url, "/v1/chat/completions", body) for url in urls)
    for chunks in (direct, before):
        ends = [c["usage"]["completion_tokens"] for c in chunks if _reason(c)]
        assert sum(ends) == chunks[-1]["usage"]["completion_tokens"]
        assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1
        for index in range(2):
            numbers = [c["usage"]["completion_tokens"] for c in chunks if _index(c) == index]
            assert numbers == sorted(numbers)
            assert numbers[0] == 0


def _reason(chunk: dict[str, Any]) -> Any:
    return chunk["choices"] and chunk["choices"][0]["finish_reason"]


def _index(chunk: dict[str, Any]) -> Any:
    return chunk["choices"][0]["index"] if chunk["choices"] else None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "A red circle"},
        {"prompt": ["One", "Two"], "n": 2, "temperature": 1, "seed": 3},
        {"prompt": [5, 6, 7], "max_tokens": 3},
        {"prompt": "A red circle", "logprobs": 2, "max_tokens": 4},
    ],
)
def test_texts_go_on_alike(urls: tuple[str, str], fields: dict[str, Any]) -> None:
    body = {"model": "nano", "max_tokens": 8, **fields}
    direct, before = (post(url, "/v1/completions", body) for url in urls)
    assert direct[0] == 200
    assert before == direct


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/tokenize", {"prompt": "A red circle"}),
        ("/tokenize", {"prompt": "A red circle", "add_special_tokens": False}),
        ("/tokenize", {"messages": [{"role": "user", "content": [show(BLUE), QUESTION]}]}),
        ("/detokenize", {"tokens": [50, 60, 70]}),
    ],
)
def test_tokens_are_alike(urls: tuple[str, str], path: str, fields: dict[str, Any]) -> None:
    direct, before = (post(url, path, {"model": "nano", **fields}) for url in urls)
    assert direct[0] == 200
    assert before == direct


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "other"}, "model_not_found"),
        ({"max_tokens": 10**6}, "context_length_exceeded"),
        ({"temperature": 9}, "invalid_value"),
        ({"colour": "red"}, "unknown_parameter"),
        ({"structured_outputs": {"regex": "("}}, "invalid_value"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, "context_length_exceeded"),
    ],
)
def test_errors_have_the_same_kind(
    urls: tuple[str, str], fields: dict[str, Any], code: str
) -> None:
    direct, before = (post(url, "/v1/chat/completions", {**PLAIN, **fields}) for url in urls)
    assert direct[0] == before[0]
    assert 400 <= direct[0] < 500
    assert before[1]["error"]["code"] == direct[1]["error"]["code"]
    assert direct[1]["error"]["code"] == code


def test_models_and_metrics_are_told(urls: tuple[str, str]) -> None:
    get = {url: httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0] for url in urls}
    direct, before = get[urls[0]], get[urls[1]]
    assert (before["id"], before["max_model_len"]) == (direct["id"], direct["max_model_len"])
    old = counters(urls[1])
    _, answer = post(urls[1], "/v1/chat/completions", PLAIN)
    new = counters(urls[1])
    for name in ("prompt_tokens", "completion_tokens"):
        counter = f"minicpmv:{name.replace('completion', 'generation')}_total"
        assert new[counter] - old[counter] == answer["usage"][name]


def counters(url: str) -> dict[str, float]:
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize(
    "questions",
    [
        [{"type": "predicate", "instructions": "The shape is red."}],
        [{"type": "choice", "choices": [{"value": "red"}, {"value": "dark blue"}]}],
        [{"type": "choice", "choices": [{"value": True}, {"value": False}]}],
        [
            {"type": "score", "levels": [{"label": "small"}, {"label": "large"}]},
            {
                "type": "choice",
                "name": "color",
                "choices": [{"value": "red", "description": "as blood"}, {"value": "blue"}],
            },
        ],
    ],
)
def test_decisions_are_alike(urls: tuple[str, str], questions: list[dict[str, Any]]) -> None:
    asked = [{"instructions": "What color is it?", **question} for question in questions]
    content = [{"type": "input_image", "image_url": RED}, {"type": "input_text", "text": "Look."}]
    body = {"model": "nano", "input": [{"role": "user", "content": content}], "questions": asked}
    direct, before = (post(url, "/v1/decisions", body) for url in urls)
    assert direct[0] == 200
    assert before == direct


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/api/chat"])
def test_other_protocols_are_answered_alike(urls: tuple[str, str], path: str) -> None:
    asked = [{"role": "user", "content": "What is a circle?"}]
    body: dict[str, Any] = {"model": "nano", "messages": asked, "max_tokens": 9}
    if path == "/v1/responses":
        body = {"model": "nano", "input": asked, "max_output_tokens": 16}
    elif path == "/api/chat":
        body = {"model": "nano", "messages": asked, "stream": False}
    texts = []
    for url in urls:
        status, answer = post(url, path, body)
        assert status == 200
        texts.append(json.dumps(answer.get("output") or answer.get("content") or answer["message"]))
    # The names of its parts are drawn anew.
    assert [len(text) for text in texts] == [len(texts[0])] * 2
    assert "circle" in texts[0] or "picture" in texts[0]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "tell"}}])
def test_calls_of_functions_are_alike(urls: tuple[str, str], choice: Any) -> None:
    shapes = {"type": "string", "enum": ["circle", "square"]}
    parameters = {
        "type": "object",
        "properties": {"shape": shapes},
        "required": ["shape"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "tell", "parameters": parameters}}
    body = {**PLAIN, "max_tokens": 60, "tools": [tool], "tool_choice": choice}
    calls = []
    for url in urls:
        status, answer = post(url, "/v1/chat/completions", body)
        assert status == 200
        calls.append(answer["choices"][0]["message"]["tool_calls"][0]["function"])
    assert calls[0] == calls[1]
    assert json.loads(calls[0]["arguments"])["shape"] in shapes["enum"]
