"""A job as the body that a server behind this one reads."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from ...engine.request import Messages, with_system
from ...processing.batching import default_frame_slices
from ..errors import ApiError
from ..jobs import Job

if TYPE_CHECKING:
    from ...engine.constraints import Constraint

Kind = Literal["vllm", "minicpmv"]

# Options of the engine by their names there.
_SAME = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "repetition_penalty": "repetition_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "length_penalty": "length_penalty",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "ignore_eos": "ignore_eos",
}
_DONE_HERE = {
    *("sampling", "do_sample", "max_time"),
    *("system_prompt", "max_slice_nums", "use_image_id"),  # in the messages, or beside them
    "up_to_context",  # the server there says what does not fit
}
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}
_UNLIMITED_SLICES = 1 << 16


@dataclass(frozen=True)
class Call:
    """An HTTP request without its server."""

    path: str
    body: bytes
    is_chat: bool


def call_of(job: Job, model: str, kind: Kind) -> Call:
    """What to send; encodes pictures, so call it in a thread where there are some.

    Args:
        model: its name there.

    Raises:
        ApiError: the server could not do what an option asks for; it is named.
    """
    prompt = job.prompt
    is_chat = has_messages(prompt)
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        # The usage of each chunk says how long the prompt is, and each of several answers.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if job.n > 1:
        body["n"] = job.n
    options = dict(job.options)
    body |= fields_of(options, kind, is_chat)
    if is_chat:
        messages: Any = with_system(prompt, options.get("system_prompt"), None)  # type: ignore[arg-type]
        settings = media_settings(messages, options, kind)
        if settings:
            body["mm_processor_kwargs"] = settings
        body["messages"] = messages_of(messages)
    else:
        body["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    return Call(path, json.dumps(body, ensure_ascii=False).encode(), is_chat)


def fields_of(options: Mapping[str, Any], kind: Kind, is_chat: bool) -> dict[str, Any]:
    """Options of the engine as fields of a request.

    Raises:
        ApiError: the server has no field for one.
    """
    given = {name: value for name, value in options.items() if value is not None}
    fields: dict[str, Any] = {}
    samples = given.get("sampling", given.get("do_sample"))
    if samples is False:
        fields["temperature"] = 0
    for name, value in given.items():
        if name in _SAME:
            fields[_SAME[name]] = value
        elif name in ("stop", "stop_token_ids"):
            fields[name] = [value] if isinstance(value, str) else list(value)
        elif name == "logit_bias":
            fields[name] = {str(token): bias for token, bias in value.items()}
        elif name == "logprobs":
            fields |= _logprobs(value, kind, is_chat)
        elif name == "constraint":
            fields["structured_outputs"] = structured_outputs(value)
        elif name == "num_beams":
            fields |= _beams(value, kind)
        elif name == "early_stopping" and kind == "minicpmv":
            fields[name] = value
        elif name not in _DONE_HERE:
            raise _cannot(name)
    return fields


def _logprobs(number: int, kind: Kind, is_chat: bool) -> dict[str, Any]:
    if not is_chat:
        return {"logprobs": number}
    fields = {"logprobs": True, "top_logprobs": number}
    if kind == "minicpmv":
        return fields | {"return_tokens_as_token_ids": True}
    # By that name vLLM forgets the texts of the likeliest tokens.
    return fields | {"return_token_ids": True}


def _beams(number: int, kind: Kind) -> dict[str, Any]:
    if number == 1:
        return {}
    if kind == "minicpmv":
        return {"num_beams": number}
    # vLLM's beams are as many as answers; the first is the best.
    return {"use_beam_search": True, "n": number, "temperature": 0}


def structured_outputs(constraint: "Constraint") -> dict[str, Any]:
    """A constraint as vLLM writes it."""
    match constraint.kind:
        case "json":
            return {"json_object": True}
        case "json_schema":
            return {"json": json.loads(constraint.text)}
        case "choice":
            return {"choice": json.loads(constraint.text)}
        case kind:
            return {kind: constraint.text}


def media_settings(
    messages: Messages, options: Mapping[str, Any], kind: Kind
) -> dict[str, int | bool]:
    """`mm_processor_kwargs`: how pictures are cut. They hold for all of a request.

    Raises:
        ApiError: its pictures and videos need different ones.
    """
    asked = options.get("max_slice_nums")
    wanted: set[tuple[int | None, bool | None]] = set()
    for block in _media(messages):
        own = asked if asked is not None else block.get("max_slice_nums")
        if block["type"] == "image":
            # A server of this package reads `detail` of each picture.
            limit = None if kind == "minicpmv" and asked is None else own
            wanted.add((limit, options.get("use_image_id")))
        else:
            frames = len(block["video"])
            wanted.add((own or default_frame_slices(frames, _UNLIMITED_SLICES), False))
    if len(wanted) > 1:
        raise ApiError(
            400,
            "invalid_value",
            "The pictures and videos of this request are to be cut in different ways, which the "
            "servers behind this one cannot do in one request. Use the same detail for all, or "
            "send videos without pictures.",
            param="messages",
        )
    for slices, numbered in wanted:
        found = {"max_slice_nums": slices, "use_image_id": numbered}
        return {name: value for name, value in found.items() if value is not None}
    return {}


def messages_of(messages: Messages) -> Messages:
    """Messages with pictures as data URLs; a video is its frames."""
    return [
        {
            "role": message["role"],
            "content": message["content"]
            if isinstance(message["content"], str)
            else [part for block in message["content"] for part in _parts(block)],
        }
        for message in messages
    ]


def _parts(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "text":
        return [{"type": "text", "text": block["text"]}]
    if block["type"] == "image":
        return [_picture(block["image"], is_low=block.get("max_slice_nums") == 1)]
    return [_picture(frame) for frame in block["video"]]


def _picture(image: Image.Image, is_low: bool = False) -> dict[str, Any]:
    url: dict[str, Any] = {"url": data_url(image)}
    if is_low:
        url["detail"] = "low"
    return {"type": "image_url", "image_url": url}


def data_url(image: Image.Image) -> str:
    """The picture without loss, so that the answer is that of its pixels."""
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def has_messages(prompt: Any) -> bool:
    """Whether it is a conversation, and no text or list of token ids."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)


def has_media(prompt: Any) -> bool:
    return has_messages(prompt) and bool(_media(prompt))


def _media(messages: Messages) -> list[dict[str, Any]]:
    return [
        block
        for message in messages
        if not isinstance(message["content"], str)
        for block in message["content"]
        if block["type"] in ("image", "video")
    ]


def _cannot(name: str) -> ApiError:
    return ApiError(
        400,
        "invalid_value",
        f"{name} has no effect with the servers behind this one. Leave it out.",
        param=name,
    )
