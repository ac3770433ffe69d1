"""Requests that no server may answer: harmless in what they hold, wrong in how they hold it.

`cases` draws as many as are asked for, by seed, none twice. Each is refused with one error of the
client's (status 4xx), whatever route it goes to; `complaint` says what is wrong with an answer.
Addresses lead to a trap on loopback, and paths to a file, which nobody may touch.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .hostile_media import addresses, broken_pictures, broken_videos, paths

CHAT = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "Hi"}
SURROGATE = "\ud800"

# Values that are of no use to any field, and per field those that are none to it.
_JUNK: tuple[Any, ...] = (
    [], {}, [[]], [{}], {"": ""}, "", " ", "x" * 5000, "\0", SURROGATE, "None", "NaN", "1e3",
    True, False, -1, 0, 1.5, 1e300, -1e300, 2**63, -(2**70), 10**400, 5e-324, [None], [1, "a"],
    {"type": "x"}, {"a": {"b": {"c": []}}},
)  # fmt: skip
_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty",
            "repetition_penalty", "length_penalty")  # fmt: skip
_WHOLES = ("top_k", "n", "max_tokens", "max_completion_tokens", "min_tokens", "seed", "num_beams",
           "top_logprobs", "best_of")  # fmt: skip
_SWITCHES = ("stream", "logprobs", "ignore_eos", "use_beam_search", "early_stopping",
             "parallel_tool_calls")  # fmt: skip
_TEXTS = ("user", "prompt_cache_key", "safety_identifier", "cache_salt", "service_tier")
_OBJECTS = ("stream_options", "response_format", "structured_outputs", "mm_processor_kwargs",
            "media_io_kwargs", "logit_bias", "metadata")  # fmt: skip
_LISTS = ("tools", "stop_token_ids", "messages")
_UNKNOWN = ("audio", "prediction", "web_search_options", "functions", "function_call",
            "guided_json", "prompt_logprobs", "truncation", "temprature", "Messages", "__class__",
            "$schema", "", "constructor", "model_config", "documents", "priority", "a.b",
            "x" * 300)  # fmt: skip
_ROUTES = ("/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate",
           "/tokenize", "/detokenize")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One request.

    Fields:
        name: what is wrong with it.
        body: as it is sent.
    """

    name: str
    body: bytes
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


@dataclass(frozen=True)
class Trap:
    """What nobody may touch: a port of loopback, and a picture in a folder of the server."""

    port: int
    file: str


def cases(seed: int, count: int, trap: Trap, model: str = "nano") -> Iterator[Case]:
    """`count` different cases, of all kinds alike, as far as a kind has so many."""
    kinds: list[Callable[[random.Random, Trap, str], Case]] = [
        _raw, _field, _field, _unknown, _message, _part, _picture, _picture, _address, _address,
        _path, _surrogate, _nested, _contradiction, _other_route, _other_route,
    ]  # fmt: skip
    chance = random.Random(seed)
    seen: set[tuple[str, bytes]] = set()
    while len(seen) < count:
        case = chance.choice(kinds)(chance, trap, model)
        key = (case.path, case.body)
        if key not in seen:
            seen.add(key)
            yield case


def complaint(status: int, content_type: str, text: str, path: str) -> str | None:
    """What is wrong with the answer to a case; None: nothing."""
    if not 400 <= status < 500 or status in (408, 409, 429):
        return f"status {status}"
    if not content_type.startswith("application/json"):
        return f"content type {content_type}"
    try:
        body = json.loads(text)
    except ValueError:
        return "no JSON"
    error = body.get("error")
    if path.startswith("/api/"):
        message, keys = error, {"error"}
    elif not isinstance(error, dict):
        return "no error in the body"
    else:
        message = error.get("message")
        keys = {"error", "type"} if path.startswith("/v1/messages") else {"error"}
        if not path.startswith("/v1/messages") and set(error) != {
            "message", "type", "param", "code",
        }:  # fmt: skip
            return f"fields {sorted(error)}"
    if set(body) != keys:
        return f"keys {sorted(body)}"
    if not isinstance(message, str) or not 10 <= len(message) <= 1500 or "\n" in message:
        return f"message {str(message)[:200]!r}"
    leaked = re.search(r"Traceback|File \"|\.py\b|site-packages|pydantic|<class", message)
    return f"message {message[:200]!r}" if leaked else None


def _sent(name: str, body: Any, path: str = CHAT) -> Case:
    return Case(name, json.dumps(body).encode(), path)


def _asked(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [QUESTION], **fields}


def _shown(model: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is it?"}, *parts]
    return _asked(model, messages=[{"role": "user", "content": content}], **fields)


def _raw(chance: random.Random, trap: Trap, model: str) -> Case:
    """Bytes that are no JSON object."""
    good = json.dumps(_asked(model, temperature=0, stop=["a"], user="ü")).encode()
    kind = chance.randrange(9)
    path = chance.choice((CHAT, *_ROUTES))
    if kind == 0:
        return Case("cut short", good[: chance.randrange(len(good) - 1)], path)
    if kind == 1:
        depth = chance.choice((65, 1000, 100_000))
        opening = chance.choice((b"[", b'{"a":', b'{"messages":['))
        return Case("too deep", opening * depth, path)
    if kind == 2:
        number = chance.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"))
        return Case("no number", good.replace(b'"temperature": 0', b'"temperature": ' + number))
    if kind == 3:
        return Case("not UTF-8", good.replace(b"\\u00fc", chance.randbytes(3) + b"\xff\xfe"), path)
    if kind == 4:
        whole = chance.choice((b"[]", b"0", b'"x"', b"null", b"true", b"[{}]", b" ", b"", b"\xef"))
        return Case("no object", whole * chance.randrange(1, 3), path)
    if kind == 5:
        return Case("another encoding", good.decode().encode(chance.choice(("utf-16", "utf-32"))))
    if kind == 6:
        place = chance.randrange(1, len(good) - 1)
        return Case("a control character", good[:place] + b"\x01" + good[place:], path)
    if kind == 7:
        digits = chance.choice((b"9", b"-9")) * 1 + b"9" * chance.choice((30, 400, 6000))
        return Case("a long number", good.replace(b'"temperature": 0', b'"max_tokens": ' + digits))
    return Case("noise", chance.randbytes(chance.randrange(1, 400)), path)


def _field(chance: random.Random, trap: Trap, model: str) -> Case:
    """A known field with a value that is none."""
    kind = chance.randrange(8)
    junk = chance.choice(_JUNK)
    if kind == 0:
        name = chance.choice(_NUMBERS)
        if isinstance(junk, int | float) and not isinstance(junk, bool) and abs(junk) <= 2:
            junk = chance.choice((-11, 101, 1e300))
    elif kind == 1:
        name = chance.choice(_WHOLES)
        if isinstance(junk, int) and not isinstance(junk, bool) and abs(junk) < 2**63:
            junk = chance.choice(("1", 0.5, [1], 10**30))
    elif kind == 2:
        name = chance.choice(_SWITCHES)
        junk = int(junk) + 2 if isinstance(junk, bool) else junk
    elif kind == 3:
        name = chance.choice(_TEXTS)
        junk = [junk] if isinstance(junk, str) else junk
    elif kind == 4:
        name = chance.choice(_OBJECTS)
        junk = [junk] if isinstance(junk, dict) else junk
    elif kind == 5:
        name = chance.choice(_LISTS)
        junk = {"0": 1} if isinstance(junk, list) else junk
    elif kind == 6:
        name, junk = (
            "model",
            chance.choice((1, [], {}, "", "none", "../" * 9, SURROGATE, "a" * 999)),
        )
    else:
        name = "stop"
        wrong = ("", [""], ["a"] * 17, "x" * 65, [["a"]], 5, {}, [5], True, ["x" * 65])
        junk = chance.choice(wrong)
    return _sent(f"{name} of {type(junk).__name__}", _asked(model) | {name: junk})


def _unknown(chance: random.Random, trap: Trap, model: str) -> Case:
    name = chance.choice(_UNKNOWN) + chance.choice(("", "", "_", "2"))
    value = chance.choice([junk for junk in _JUNK if junk is not None])
    if chance.randrange(2):
        return _sent("an unknown field", _asked(model) | {name: value})
    message = QUESTION | {name or "-": value}
    return _sent("an unknown field of a message", _asked(model, messages=[message]))


def _message(chance: random.Random, trap: Trap, model: str) -> Case:
    role = chance.choice(("", "User", "function", "bot", SURROGATE, 1, [], {}, True))
    junk = chance.choice([junk for junk in _JUNK if not isinstance(junk, str) and junk != []])
    tail = chance.choice(([], [QUESTION], [QUESTION] * 3))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    wrong = chance.choice(
        (
            junk,
            {"role": role, "content": "x"},
            {"role": "user"},
            {"content": "x"},
            {"role": "user", "content": junk},
            {"role": "user", "content": [junk]},
            {"role": "user", "content": []},
            {"role": "system", "content": [{"type": "image_url", "image_url": "data:,"}]},
            {"role": "assistant", "content": junk},
            {"role": "assistant", "tool_calls": [call | {"type": "code"}]},
            {"role": "assistant", "tool_calls": [call | {"function": junk}]},
            {"role": "assistant", "tool_calls": [junk]},
            {"role": "tool", "content": "x"},
            {"role": "tool", "content": "x", "tool_call_id": "none"},
            {"role": "tool", "content": "x", "tool_call_id": junk},
            "Hi",
        )
    )
    head = chance.choice(([], [QUESTION], [{"role": "system", "content": "Be brief."}]))
    return _sent("a message", _asked(model, messages=[*head, wrong, *tail]))


def _part(chance: random.Random, trap: Trap, model: str) -> Case:
    kinds = ("image", "image_pil", "image_embeds", "input_audio", "audio", "audio_url", "file",
             "input_file", "video", "", "TEXT", "html", SURROGATE, "tool_use")  # fmt: skip
    junk = chance.choice([junk for junk in _JUNK if junk != ""])
    if isinstance(junk, str) and not junk.strip():
        junk = 5
    part = chance.choice(
        (
            {"type": chance.choice(kinds), "text": "x", chance.choice(kinds): "x"},
            {"type": junk, "text": "x"},
            {"text": "x"},
            {"type": "text"},
            {"type": "text", "text": junk if not isinstance(junk, str) else [junk]},
            {"type": "image_url", "image_url": junk},
            {"type": "image_url", "image_url": {"url": junk}},
            {"type": "image_url", "image_url": {"url": "data:,", "detail": junk}},
            {"type": "image_url", "image_url": {"link": "x"}},
            {"type": "image_url", "url": "x"},
            {"type": "image_url", "uuid": f"none-{chance.randrange(10**6)}"},
            {"type": "image_url", "image_url": "data:,", "uuid": junk},
            {"type": "input_image", "file_id": "x"},
            {"type": "video_url", "video_url": {"url": junk}},
            {"type": "video_url", "video_url": {"url": "data:,", "fps": junk}},
            {"type": "input_video", "input_video": junk},
        )
    )
    return _sent("a part", _shown(model, part))


def _picture(chance: random.Random, trap: Trap, model: str) -> Case:
    if chance.randrange(6) == 0:
        name, url = chance.choice(broken_videos(chance))
        return _sent(name, _shown(model, {"type": "video_url", "video_url": {"url": url}}))
    name, url = chance.choice(broken_pictures(chance))
    form = chance.choice((url, {"url": url}, {"url": url, "detail": "low"}))
    return _sent(name, _shown(model, {"type": "image_url", "image_url": form}))


def _address(chance: random.Random, trap: Trap, model: str) -> Case:
    url = chance.choice(addresses(trap.port)).replace("N", str(chance.randrange(10**4)))
    return _sent("a private address", _shown(model, _part_at(chance, url)))


def _path(chance: random.Random, trap: Trap, model: str) -> Case:
    url = chance.choice(paths(trap.file)) + chance.choice(("", "", "?x", "#x", "\0", "%00"))
    return _sent("a path", _shown(model, _part_at(chance, url)))


def _part_at(chance: random.Random, url: str) -> dict[str, Any]:
    kind = chance.choice(("image_url", "image_url", "input_image", "video_url", "input_video"))
    if kind == "input_image":
        return {"type": kind, "image_url": url}
    if kind == "input_video" or chance.randrange(2):
        return {"type": kind, kind: {"url": url}}
    return {"type": kind, kind: url}


def _surrogate(chance: random.Random, trap: Trap, model: str) -> Case:
    half = chance.choice(("\ud800", "\udfff", "a\udc00b", "\ud83d"))
    text = half * chance.randrange(1, 4)
    body = chance.choice(
        (
            _asked(model, messages=[{"role": "user", "content": text}]),
            _asked(model, messages=[{"role": "system", "content": text}, QUESTION]),
            _asked(text),
            _asked(model) | {text: 1},
            _shown(model, {"type": "text", "text": text}),
            _shown(model, {"type": "image_url", "image_url": text}),
            _shown(model, {"type": "image_url", "image_url": f"http://{text}/"}),
            _shown(model, {"type": "image_url", "image_url": f"data:image/png;base64,{text}"}),
            _shown(model, {"type": text}),
            _asked(model, logit_bias={text: 1}),
            _asked(model, response_format={"type": text}),
            _asked(model, service_tier=text),
        )
    )
    return _sent("half a character", body)


def _nested(chance: random.Random, trap: Trap, model: str) -> Case:
    depth = chance.randrange(62, 400)
    value: Any = chance.choice(("x", 1, {}, []))
    for _ in range(depth):
        value = {"a": value} if chance.randrange(2) else [value]
    function = {"name": "f", "parameters": {"properties": value}}
    body = chance.choice(
        (
            _asked(model, metadata={"a": value}),
            _asked(model, messages=[{"role": "user", "content": value}]),
            _asked(model, tools=[{"type": "function", "function": function}]),
            _asked(
                model, response_format={"type": "json_schema", "json_schema": {"schema": value}}
            ),
        )
    )
    return _sent("too deep", body)


def _contradiction(chance: random.Random, trap: Trap, model: str) -> Case:
    number = chance.randrange(2, 17)
    fields = chance.choice(
        (
            {"max_tokens": number, "max_completion_tokens": number + 1},
            {"max_tokens": 10**9 + number},
            {"min_tokens": number + 1, "max_tokens": number},
            {"num_beams": number, "logprobs": True},
            {"num_beams": number, "n": 2},
            {"num_beams": 1, "use_beam_search": True, "seed": number},
            {"length_penalty": number / 4 + 1},
            {"early_stopping": True, "seed": number},
            {"top_logprobs": number},
            {"best_of": number, "n": 1},
            {"store": True, "seed": number},
            {"stream_options": {"include_usage": True}, "seed": number},
            {"logit_bias": {"x" * number: 1}},
            {"logit_bias": {str(10**6 + number): 1}},
            {"stop_token_ids": [10**6 + number]},
            {"chat_template_kwargs": {"enable_thinking": True, "x": number}},
            {"reasoning_effort": "high", "seed": number},
            {"modalities": ["text", "audio"], "seed": number},
            {"mm_processor_kwargs": {"max_slice_nums": -number}},
            {"mm_processor_kwargs": {"fps": number, "num_frames": 2}},
            {"media_io_kwargs": {"audio": {"x": number}}},
            {"messages": [QUESTION, {"role": "assistant", "content": "x" * number}]},
            {"messages": [{"role": "user", "content": " " * number}]},
            {"messages": [{"role": "user", "content": "word " * (5000 + number)}]},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x" * number}}},
            {"structured_outputs": {"regex": "(" * number}},
            {"structured_outputs": {"regex": "a", "choice": ["x" * number]}},
            {"structured_outputs": {"choice": []}, "seed": number},
            {"tools": [{"type": "function", "function": {"name": "a b" * number}}]},
            {"tool_choice": {"type": "function", "function": {"name": "x" * number}}},
        )
    )
    return _sent("a contradiction", _asked(model, **fields))


def _other_route(chance: random.Random, trap: Trap, model: str) -> Case:
    """Another protocol with fields of no use to it."""
    path = chance.choice(_ROUTES)
    url = chance.choice(addresses(trap.port)).replace("N", str(chance.randrange(10**4)))
    bad = chance.choice((1.5, -1, True, {"x": 1}, [1.5], {"type": "image", "url": url}))
    name = {"/v1/completions": "prompt", "/v1/responses": "input", "/v1/messages": "messages",
            "/api/chat": "messages", "/api/generate": "prompt", "/tokenize": "prompt",
            "/detokenize": "tokens"}[path]  # fmt: skip
    body: dict[str, Any] = {"model": model, name: bad}
    kind = chance.randrange(3)
    if kind == 1:
        picture = {"type": "input_image", "image_url": url}
        source = {"type": "image", "source": {"type": "url", "url": url}}
        turn = {"role": "user", "content": [source]}
        body = {
            "/v1/responses": {"input": [{"role": "user", "content": [picture]}]},
            "/v1/messages": {"messages": [turn], "max_tokens": 5},
            "/api/chat": {"messages": [{"role": "user", "content": "x", "images": [url]}]},
            "/api/generate": {"prompt": "x", "images": [url]},
            "/tokenize": {"messages": [{"role": "user", "content": [picture]}]},
        }.get(path, {name: bad}) | {"model": model}  # fmt: skip
    elif kind == 2:
        body |= {chance.choice(_UNKNOWN[:8]): chance.choice(_JUNK)}
    return _sent(f"{path} with {name}", body, path)
