"""Messages of a conversation, and the parts that their content may hold.

A part of an unknown kind is an error at its place that names the kind, rather than one error for
each kind that it might have been.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from ...errors import short
from .base import Body

Detail = Literal["auto", "low", "high", "original"]
Uuid = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def text_or(tag: str) -> Callable[[Any], str]:
    """Tells a text from what has this tag; tags stand in `<>`, as no field does."""
    return lambda value: "<string>" if isinstance(value, str) else tag


def text_or_list() -> BeforeValidator:
    """Refuses what is neither, naming both."""
    return _one_of((str, list), "a string or a list")


def text_or_object() -> BeforeValidator:
    """Refuses what is neither, naming both."""
    return _one_of((str, dict, BaseModel), "a string or an object")


def text_or_truth() -> BeforeValidator:
    """Refuses what is neither, naming both."""
    return _one_of((str, bool), "a string, true or false")


def _one_of(kinds: tuple[type, ...], expected: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, kinds):
            return value
        return _refuse(f"it is {shown(value)}; expected {expected}.")

    return BeforeValidator(check)


def shown(value: Any, most: int = 40) -> str:
    """As JSON names it, cut to `most` characters."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else short(value, most)


class TextPart(Body):
    """Text; `input_text` and `output_text` are its names in `/v1/responses`."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: list[Any] | None = Field(None, description="Without effect.")


class RefusalPart(Body):
    """What an earlier answer refused, as text."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(Body):
    """Where a picture is, and how closely it is looked at.

    Fields:
        url: a `data:` URL in base64, or an `http(s)` address.
        detail: `low` shows it in one slice, any other in as many as the model cuts at most.
    """

    url: str
    detail: Detail | None = None


class ImagePart(Body):
    """A picture; one with a `uuid` may be shown again later by that alone."""

    type: Literal["image_url", "input_image"]
    image_url: (
        Annotated[
            Annotated[str, Tag("<string>")] | Annotated[ImageUrl, Tag("<object>")],
            Discriminator(text_or("<object>")),
            text_or_object(),
        ]
        | None
    ) = None
    detail: Detail | None = None
    uuid: Uuid | None = None


class VideoUrl(Body):
    """Where a video is; `fps` or `num_frames` choose its frames."""

    url: str
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    num_frames: Annotated[int, Field(ge=1)] | None = None


class InputVideo(Body):
    """A video as llama-server takes it: base64, or an address."""

    data: str | None = None
    url: str | None = None
    format: str | None = Field(None, description="Without effect: the data itself says it.")


class VideoPart(Body):
    """A video, of which frames are shown; one with a `uuid` may be shown again by that alone."""

    type: Literal["video_url", "input_video"]
    video_url: (
        Annotated[
            Annotated[str, Tag("<string>")] | Annotated[VideoUrl, Tag("<object>")],
            Discriminator(text_or("<object>")),
            text_or_object(),
        ]
        | None
    ) = None
    input_video: InputVideo | None = None
    uuid: Uuid | None = None


_KINDS = {
    **dict.fromkeys(("text", "input_text", "output_text"), "<text>"),
    **dict.fromkeys(("image_url", "input_image"), "<image>"),
    **dict.fromkeys(("video_url", "input_video"), "<video>"),
    "refusal": "<refusal>",
}
_WITHOUT_SOUND = "sound is not supported; send text, pictures and videos"
_ADVICE = {
    **dict.fromkeys(("input_audio", "audio", "audio_url"), _WITHOUT_SOUND),
    **dict.fromkeys(("file", "input_file"), "send pictures as image_url, and videos as video_url"),
    **dict.fromkeys(
        ("image", "image_pil", "image_embeds"), "send pictures as image_url, in a data: URL"
    ),
    "video": "send videos as video_url, in a data: URL",
}


def _known(*kinds: str) -> BeforeValidator:
    """Refuses what is no part, and parts of other kinds."""

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            return _refuse(f"it is {shown(value)}; expected an object with a type.")
        kind = value.get("type")
        if isinstance(kind, str) and kind in kinds:
            return value
        advice = _ADVICE.get(kind) if isinstance(kind, str) else None
        if advice is not None:
            return _refuse(f"it is a part of type {kind}: {advice}.")
        known = ", ".join(kinds)
        found = "without a type" if kind is None else f"of type {short(kind)}"
        return _refuse(f"it is a part {found}; expected one of {known}.")

    return BeforeValidator(check)


def _refuse(reason: str) -> Any:
    raise PydanticCustomError("invalid_value", "{reason}", {"reason": reason})


def _kind_of(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return _KINDS.get(str(kind), "<text>")


def _content_kind(value: Any) -> str:
    return "<parts>" if isinstance(value, list) else "<string>"


_TEXTS = ("text", "input_text", "output_text")

Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImagePart, Tag("<image>")]
    | Annotated[VideoPart, Tag("<video>")]
    | Annotated[RefusalPart, Tag("<refusal>")],
    Discriminator(_kind_of),
    _known(*_KINDS),
]
AnswerPart = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")],
    Discriminator(_kind_of),
    _known(*_TEXTS, "refusal"),
]
OnlyText = Annotated[TextPart, _known(*_TEXTS)]

Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[Part], Tag("<parts>")],
    Discriminator(_content_kind),
    text_or_list(),
]
AnswerContent = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[AnswerPart], Tag("<parts>")],
    Discriminator(_content_kind),
    text_or_list(),
]
TextContent = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[OnlyText], Tag("<parts>")],
    Discriminator(_content_kind),
    text_or_list(),
]


class SystemMessage(Body):
    """What holds for the whole conversation."""

    role: Literal["system", "developer"]
    content: TextContent
    name: str | None = Field(None, description="Without effect.")


class UserMessage(Body):
    """What a person says and shows."""

    role: Literal["user"]
    content: Content
    name: str | None = Field(None, description="Without effect.")


class FunctionCall(Body):
    """A function and its arguments, which are JSON as text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A function that an earlier answer called."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = Field(None, description="Without effect.")


class AssistantMessage(Body):
    """An earlier answer: text, calls of functions, or both."""

    role: Literal["assistant"]
    content: AnswerContent | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = Field(None, description="Without effect.")
    annotations: list[Any] | None = Field(None, description="Without effect.")
    reasoning: str | None = Field(None, description="Without effect.")
    reasoning_content: str | None = Field(None, description="Without effect.")


class ToolMessage(Body):
    """What a called function gave: text, and what it shows, as a screenshot."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = Field(None, description="Without effect.")


_ROLES = {
    **dict.fromkeys(("system", "developer"), "<system>"),
    "user": "<user>",
    "assistant": "<assistant>",
    "tool": "<tool>",
}


def _check_message(value: Any) -> Any:
    if not isinstance(value, dict):
        return _refuse(f"it is {shown(value)}; expected an object with role and content.")
    role = value.get("role")
    if isinstance(role, str) and role in _ROLES:
        return value
    found = "without a role" if role is None else f"of the role {short(role)}"
    return _refuse(f"it is a message {found}; expected one of {', '.join(_ROLES)}.")


def _role_of(value: Any) -> str:
    role = value.get("role") if isinstance(value, dict) else getattr(value, "role", None)
    return _ROLES.get(str(role), "<user>")


ChatMessage = Annotated[
    Annotated[SystemMessage, Tag("<system>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[ToolMessage, Tag("<tool>")],
    Discriminator(_role_of),
    BeforeValidator(_check_message),
]
