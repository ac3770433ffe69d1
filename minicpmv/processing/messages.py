"""Chat messages in the many forms people write them, checked and made into the one that templates
read.

This is the one place that says what a message may hold. Whatever would have no effect is an error:
nothing in a message vanishes. Text is data; see `quoting.py`.
"""

import base64
import binascii
import math
import numbers
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import short
from ..media.video import VideoFile, is_file
from .batching import sampled_video
from .quoting import quoted

Message = dict[str, Any]
Block = dict[str, Any]

ROLES = ("system", "user", "assistant")

_MESSAGE_KEYS = ("role", "content")
_SOURCES = {
    "image": ("image", "url", "path", "base64"),
    "video": ("video", "frames", "url", "path", "base64"),
}
# Where each kind may stand beside the content, as in requests of Ollama and training files.
_BESIDE = {"image": ("images", "image"), "video": ("videos", "video")}
_SAMPLING = {"num_frames": "num_frames", "nframes": "num_frames", "fps": "fps"}
_BLOCK_KEYS = {
    "text": ("text", "inline"),
    "image": (*_SOURCES["image"], "inline", "detail", "max_slice_nums"),
    "video": (*_SOURCES["video"], *_SAMPLING),
    "image_url": ("image_url",),
    "video_url": ("video_url", *_SAMPLING),
}
# A template that reads one of these in a block does not read it in a message.
_OUR_KEYS = {"value", "type"}.union(*_BLOCK_KEYS.values(), *_BESIDE.values())
# What other programs write, and how the same is said here.
_AUDIO = ("audio", "audios", "input_audio", "audio_url")
_SLICES = (
    "limit the slices of pictures with max_slice_nums, an option of the whole request, or of a "
    "block of type image"
)
_ADVICE = {
    **dict.fromkeys(("detail", "max_pixels", "min_pixels", "max_slice_nums"), _SLICES),
    **dict.fromkeys(("resized_height", "resized_width", "size"), _SLICES),
    **dict.fromkeys(("max_frames", "min_frames", "total_pixels"), "use num_frames or fps"),
    **dict.fromkeys(("images", "videos"), "put each one into a block of its own"),
    **dict.fromkeys(("value", "prompt"), "text goes into content"),
    "text": "text goes into content, and there into a block of its own",
    **dict.fromkeys(("tools", "tool_calls", "tool_call_id"), "write tool use as text"),
    **dict.fromkeys(("start", "end", "video_start", "video_end"), "cut the video beforehand"),
}


def normalised(
    messages: Any,
    tags: re.Pattern[str] | None = None,
    *,
    check_roles: bool = True,
    other_keys: Collection[str] = (),
) -> list[Message]:
    """A copy of the messages whose lists of content hold typed blocks only.

    Args:
        messages: dicts with `role` and `content`; content is text or a list of text, images and
            blocks. `images` and `videos` beside the content stand in front of it, or where it has
            blocks of their kind without a source.
        tags: from `reserved_tags`; what they match is put in quotes.
        check_roles: whether roles other than system, user and assistant are errors.
        other_keys: keys of a message that the chat template reads too.

    Raises:
        ValueError: a message has another form, or holds what would have no effect.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(
            f"A conversation is {short(messages)}; expected a question, or a list of messages "
            "{'role': 'user', 'content': ...}."
        )
    other_keys = set(other_keys) - _OUR_KEYS - set(_MESSAGE_KEYS)
    return [
        _message(message, index, tags, check_roles, other_keys)
        for index, message in enumerate(messages)
    ]


def question(messages: Any, other_keys: Collection[str] = ()) -> list[Message]:
    """As `normalised`, for messages that ask for an answer.

    Raises:
        ValueError: also if the last message is not a user's, or is blank, or if a block holds
            nothing.
    """
    messages = normalised(messages, other_keys=other_keys)
    last = messages[-1]
    if last["role"] != "user":
        raise ValueError(
            f"The last message has the role {last['role']!r}; it must be a user's, to be answered."
        )
    for index, message in enumerate(messages):
        content = message.get("content", "")
        for block in content if isinstance(content, list) else ():
            if block["type"] not in block:
                raise ValueError(f"Message {index} has the block {block!r}, which holds nothing.")
    if _is_blank(last.get("content", "")):
        raise ValueError("The last message is empty. Give a question or an instruction.")
    return messages


def with_images_at(tag: str, messages: list[Message]) -> list[Message]:
    """Normalised messages with the images of the first user message where its text holds `tag`.

    Text without the tag, and text without images, stays. One image stands at every tag.

    Raises:
        ValueError: there are several images, and tags of another number.
    """
    index = next((i for i, message in enumerate(messages) if message.get("role") == "user"), None)
    content = None if index is None else messages[index].get("content")
    if index is None or not isinstance(content, list):
        return messages
    images = [block for block in content if block["type"] == "image"]
    text = "\n".join(block["text"] for block in content if block["type"] == "text")
    first, *rest = text.split(tag)
    if not images or not rest or len(images) + 1 < len(content):
        return messages
    if len(images) not in (1, len(rest)):
        raise ValueError(
            f"The first message has {len(rest)} {tag} and {len(images)} images; give one {tag} per "
            "image."
        )
    blocks: list[Block] = [{"type": "text", "text": first}]
    for image, after in zip(images * (len(rest) // len(images)), rest, strict=True):
        blocks += [image | {"inline": True}, {"type": "text", "text": after, "inline": True}]
    return [*messages[:index], messages[index] | {"content": blocks}, *messages[index + 1 :]]


def _message(
    message: Any,
    index: int,
    tags: re.Pattern[str] | None,
    check_roles: bool,
    other_keys: Collection[str],
) -> Message:
    if not isinstance(message, Mapping):
        raise ValueError(
            f"Message {index} is {short(message)}; expected a dict with role and content."
        )
    role = message.get("role")
    if check_roles and role not in ROLES:
        raise ValueError(f"Message {index} has the role {role!r}; it is one of {', '.join(ROLES)}.")
    message = _filled(message, keep=_MESSAGE_KEYS)
    beside = {kind: _media_beside(message, kind, names, index) for kind, names in _BESIDE.items()}
    names = (*_MESSAGE_KEYS, *(name for names in _BESIDE.values() for name in names))
    _check_keys(
        {k: v for k, v in message.items() if k not in other_keys}, names, f"Message {index}"
    )
    content = message.get("content")
    if content is None:
        if not any(key in message for key in other_keys):
            raise ValueError(
                f"Message {index} has no content; expected text, or a list of text, pictures and "
                "blocks."
            )
    else:
        content = _content(content, index, tags)
        for kind, blocks in beside.items():
            content = _with_media(content, kind, blocks, index)
    result = {key: quoted(message[key], tags) for key in message if key in other_keys}
    given = {"role": role, "content": content}
    return result | {key: value for key, value in given.items() if value is not None}


def _content(content: Any, index: int, tags: re.Pattern[str] | None) -> str | list[Block]:
    if isinstance(content, str):
        return str(quoted(_encodable(content, index), tags))
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list | tuple):
        raise ValueError(
            f"Message {index} has content of type {type(content).__name__}; it is text, or a list "
            "of text, pictures and blocks: [picture, 'What is this?']."
        )
    return [_block(item, index, tags) for item in content]


def _media_beside(message: Message, kind: str, names: Sequence[str], index: int) -> list[Block]:
    """Blocks of the pictures or videos that stand beside the content."""
    found = [name for name in names if name in message]
    if not found:
        return []
    if len(found) > 1:
        raise ValueError(f"Message {index} has {' and '.join(found)}; give one.")
    name, items = found[0], message[found[0]]
    is_list = isinstance(items, list | tuple) and name == names[0]
    return [
        _media_block({"type": kind, kind: item}, index, kind)
        for item in (items if is_list else [items])
    ]


def _with_media(
    content: str | list[Block], kind: str, media: list[Block], index: int
) -> str | list[Block]:
    """The content with the media in front of it, or in its blocks without a source."""
    if not media:
        return content
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if any(f"<{kind}>" in block["text"] for block in blocks if block["type"] == "text"):
        raise ValueError(
            f"Message {index} has {kind}s beside its content and <{kind}> in its text. Put each "
            f"{kind} into the content, where it stands: ['Before', {kind}, 'after']."
        )
    places = [i for i, block in enumerate(blocks) if block == {"type": kind}]
    if not places:
        return [*media, *blocks]
    if len(places) != len(media):
        raise ValueError(
            f"Message {index} has {len(places)} blocks of type {kind} without a source and "
            f"{len(media)} {kind}s beside its content; give as many."
        )
    filled = dict(zip(places, media, strict=True))
    return [filled.get(i, block) for i, block in enumerate(blocks)]


def _block(item: Any, index: int, tags: re.Pattern[str] | None) -> Block:
    if isinstance(item, str):
        return {"type": "text", "text": quoted(_encodable(item, index), tags)}
    if isinstance(item, VideoFile):
        return {"type": "video", "video": item}
    if _is_picture(item):
        return {"type": "image", "image": item}
    if item is None:
        raise ValueError(f"Message {index} has the block None, which holds nothing.")
    if not isinstance(item, Mapping):
        raise ValueError(
            f"Message {index} holds {type(item).__name__}; content is text, images, or blocks with "
            "a type."
        )
    kind = item.get("type")
    if not isinstance(kind, str) or kind not in _BLOCK_KEYS:
        if kind in _AUDIO:
            raise ValueError(f"Message {index} has a block {kind}: audio input is not supported.")
        raise ValueError(
            f"Message {index} has a block of type {kind!r}; it is one of {', '.join(_BLOCK_KEYS)}."
        )
    block = _filled(item, keep=_BLOCK_KEYS[kind])
    _check_keys(block, ("type", *_BLOCK_KEYS[kind]), f"Message {index} has a block of type {kind}")
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise ValueError(f"Message {index} has a text block without text.")
        return {**block, "text": quoted(_encodable(block["text"], index), tags)}
    if kind in ("image_url", "video_url"):
        kind, block = _from_url(block, index, kind)
    return _media_block(block, index, kind)


def _from_url(block: Block, index: int, kind: str) -> tuple[str, Block]:
    """A block of OpenAI's routes as one of type image or video."""
    url, media = block.get(kind), kind.removesuffix("_url")
    settings = {key: block[key] for key in block if key in _SAMPLING}
    if isinstance(url, Mapping):
        inner = _filled(url, keep=("url",))
        known = ("url", "detail") if media == "image" else ("url", *_SAMPLING)
        _check_keys(inner, known, f"Message {index} has a block of type {kind}")
        settings |= {key: inner[key] for key in inner if key != "url"}
        url = inner.get("url")
    if not isinstance(url, str):
        raise ValueError(
            f"Message {index} has a block {kind} without a url; "
            f'it looks like {{"type": "{kind}", "{kind}": {{"url": ...}}}}.'
        )
    # A URL is a file even where its name does not say so.
    return media, {"type": media, media: VideoFile(url) if media == "video" else url, **settings}


def _media_block(block: Block, index: int, kind: str) -> Block:
    """A block of type image or video with what it shows under the name of its type.

    Without a source the image or video itself is passed beside the messages.
    """
    place = f"Message {index} has a block of type {kind}"
    source = _source(block, index, kind)
    if kind == "image":
        source = _one_image(source, place)
    if block.get("detail", "auto") != "auto":
        raise ValueError(
            f"{place} with detail {block['detail']!r}, which has no effect; {_SLICES}."
        )
    sampling = {_SAMPLING[key]: _number(block[key]) for key in _SAMPLING if key in block}
    if sampling and source is None:
        raise ValueError(f"{place} with {' and '.join(sampling)}, but without a video.")
    if sampling and (getattr(source, "num_frames", None) or getattr(source, "fps", None)):
        raise ValueError(f"{place} with {' and '.join(sampling)} and a VideoFile that has its own.")
    if sampling or (kind == "video" and is_file(source)):
        try:
            source = sampled_video(source, **sampling)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    shown = {} if source is None else {kind: source}
    if kind == "image" and "max_slice_nums" in block:
        shown["max_slice_nums"] = _checked_slices(block["max_slice_nums"], source, place)
    inline = {"inline": True} if block.get("inline") else {}  # from `with_images_at`
    return {"type": kind, **shown, **inline}


def _checked_slices(value: Any, source: Any, place: str) -> int:
    number = _number(value)
    if type(number) is not int or number < 1:
        raise ValueError(
            f"{place} with max_slice_nums {value!r}; it must be a whole number of at least 1."
        )
    if source is None:
        raise ValueError(f"{place} with max_slice_nums, but without an image.")
    return number


def _source(block: Block, index: int, kind: str) -> Any:
    """What a block shows: the value of the one key it has, None when it has none."""
    sources = [key for key in _SOURCES[kind] if key in block]
    if len(sources) > 1:
        raise ValueError(
            f"Message {index} has a block of type {kind} with {' and '.join(sources)}; give one."
        )
    if not sources:
        return None
    source = block[sources[0]]
    if sources[0] == "base64" and isinstance(source, str) and not source.startswith("data:"):
        try:
            source = base64.b64decode("".join(source.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(
                f"Message {index} has a block of type {kind} in damaged base64: {error}."
            ) from None
    return source


def _one_image(source: Any, place: str) -> Any:
    """A list or an array of one picture is that picture; one of several is an error."""
    is_several = isinstance(source, list | tuple) or (
        isinstance(source, np.ndarray | torch.Tensor) and source.ndim == 4
    )
    if not is_several:
        return source
    if len(source) != 1:
        raise ValueError(
            f"{place} that holds {len(source)} pictures. Give each one a block of its own; frames "
            "of a video go into a block of type video."
        )
    return _one_image(source[0], place)


def _check_keys(given: Iterable[str], known: Collection[str], place: str) -> None:
    """Every key has an effect."""
    unknown = [key for key in given if key not in known]
    if not unknown:
        return
    key = str(unknown[0])
    if key in _AUDIO:
        raise ValueError(f"{place} with the key {key!r}: audio input is not supported.")
    with_key = "has" if place.count(" ") == 1 else "with"
    advice = f"; {_ADVICE[key]}" if key in _ADVICE else ""
    raise ValueError(
        f"{place} {with_key} the key {key!r}, which has no effect{advice}. "
        f"Known keys: {', '.join(name for name in dict.fromkeys(known) if name != 'inline')}."
    )


def _filled(given: Mapping[str, Any], keep: Collection[str]) -> Message:
    """Without keys that say nothing: None, and empty values under other keys than `keep`."""
    return {
        key: value
        for key, value in given.items()
        if value is not None
        and (key in keep or not (isinstance(value, str | list | tuple | dict) and not value))
    }


def _is_picture(item: Any) -> bool:
    kinds = Image.Image | np.ndarray | torch.Tensor | bytes | bytearray | os.PathLike  # type: ignore[type-arg]
    return isinstance(item, kinds) or hasattr(item, "read")


def _is_blank(content: str | list[Block]) -> bool:
    if isinstance(content, str):
        return is_blank(content)
    return all(block["type"] == "text" and is_blank(block["text"]) for block in content)


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, marks of byte order and the like."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def _encodable(text: str, index: int) -> str:
    """The text, if it can be written as UTF-8: a half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Message {index} has the character {text[error.start]!a} at {error.start}, which is "
            "no character by itself. Decode the text with its own encoding."
        ) from None
    return text


def _number(value: Any) -> Any:
    """A number as Python writes it: of numpy, and whole ones that JSON wrote as 2.0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    number = float(value)
    return int(number) if math.isfinite(number) and number == int(number) else number
