"""Chat messages in the many forms people write them, made into the one that templates read.

Text inside a message is data. A reserved tag in it is put in quotes (two private-use characters,
the pair that transformers uses too), travels through the template, and is encoded as plain
characters by the processor.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..media.video import VideoFile, is_file
from .placeholders import IMAGE_MARKER, VIDEO_MARKER

MARKER = re.compile(f"{re.escape(IMAGE_MARKER)}|{re.escape(VIDEO_MARKER)}")
ROLES = ("system", "user", "assistant")
QUOTE_START, QUOTE_END = "\U000f0000", "\U000f0001"

_QUOTED = re.compile(f"{QUOTE_START}(.*?){QUOTE_END}", re.DOTALL)
# Grounding tags are the model's own language; a prompt may use them.
_FREE_TAGS = re.compile(r"</?(ref|box|quad|point)>")


def normalised(
    messages: Sequence[Mapping], quote: re.Pattern | None = None, *, check_roles: bool = True
) -> list[dict[str, Any]]:
    """A copy of the messages whose lists of content hold typed blocks only.

    Args:
        messages: dicts with `role` and `content`; content is text or a list of text, images and
            blocks.
        quote: from `reserved_tags`; tags it matches are put in quotes.
        check_roles: whether roles other than system, user and assistant are errors.

    Raises:
        ValueError, TypeError: a message has another form.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError("A conversation is a list with at least one message.")
    result = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(
                f"Message {index} is {type(message).__name__}; it must be a dict with role and "
                "content."
            )
        role = message.get("role")
        if check_roles and role not in ROLES:
            raise ValueError(
                f"Message {index} has the role {role!r}; it is one of {', '.join(ROLES)}."
            )
        message = {key: value for key, value in message.items() if value is not None}
        content = message.get("content")
        if isinstance(content, str):
            message["content"] = _quoted(content, quote)
        elif isinstance(content, list | tuple):
            message["content"] = [_block(item, index, quote) for item in content]
        elif content is not None:
            message["content"] = [_block(content, index, quote)]
        result.append(message)
    return result


def reserved_tags(added_tokens: Iterable[str], *, keep_markers: bool) -> re.Pattern:
    """Matches what a message must not write, and as group `keep` the markers that it may."""
    tags = [
        token
        for token in added_tokens
        if token.startswith("<") and token.endswith(">") and not _FREE_TAGS.fullmatch(token)
    ]
    tags += ["<image>", "<video>"]  # halves of the markers, which need not be tokens
    reserved = "|".join(map(re.escape, sorted(set(tags), key=len, reverse=True)))
    keep = MARKER.pattern if keep_markers else "(?!)"
    return re.compile(f"(?P<keep>{keep})|(?P<tag>{reserved})")


def with_images_at(tag: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
    blocks: list[dict[str, Any]] = [{"type": "text", "text": first}]
    for image, after in zip(images * (len(rest) // len(images)), rest, strict=True):
        blocks += [image | {"inline": True}, {"type": "text", "text": after, "inline": True}]
    return [*messages[:index], messages[index] | {"content": blocks}, *messages[index + 1 :]]


def unquoted(text: str) -> tuple[str, list[int], list[tuple[int, int]]]:
    """Text without the quotes.

    Returns:
        The bare text; for each of its characters, and its end, the position in `text`; and the
        spans in the bare text that stood in quotes.
    """
    pieces, positions, quoted, last, length = [], [], [], 0, 0
    for match in _QUOTED.finditer(text):
        pieces += [text[last : match.start()], match.group(1)]
        positions += [*range(last, match.start()), *range(match.start(1), match.end(1))]
        length += match.start() - last
        quoted.append((length, length + len(match.group(1))))
        length = quoted[-1][1]
        last = match.end()
    positions += range(last, len(text) + 1)
    return "".join([*pieces, text[last:]]), positions, quoted


def _quoted(text: str, quote: re.Pattern | None) -> str:
    if quote is None:
        return text
    text = text.replace(QUOTE_START, "").replace(QUOTE_END, "")

    def put_in_quotes(match: re.Match) -> str:
        tag = match.group("tag")
        return match.group() if tag is None else f"{QUOTE_START}{tag}{QUOTE_END}"

    return quote.sub(put_in_quotes, text)


def _block(item: Any, index: int, quote: re.Pattern | None) -> dict[str, Any]:
    if isinstance(item, str):
        return {"type": "text", "text": _quoted(item, quote)}
    if isinstance(item, Image.Image | np.ndarray | torch.Tensor | bytes | os.PathLike):
        return {"type": "image", "image": item}
    if isinstance(item, VideoFile):
        return {"type": "video", "video": item}
    if not isinstance(item, Mapping):
        raise TypeError(
            f"Message {index} holds {type(item).__name__}; content is text, images, or blocks with "
            "a type."
        )
    block = {key: value for key, value in item.items() if value is not None}
    kind = block.get("type")
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise ValueError(f"Message {index} has a text block without text.")
        return {**block, "text": _quoted(block["text"], quote)}
    if kind in ("image_url", "video_url"):
        url = block.get(kind)
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str):
            raise ValueError(
                f"Message {index} has a block {kind} without a url; "
                f'it looks like {{"type": "{kind}", "{kind}": {{"url": ...}}}}.'
            )
        if kind == "video_url":
            return {"type": "video", "video": VideoFile(url)}
        return {"type": "image", "image": url}
    if kind == "image":
        return _image_block(block, index)
    if kind == "video":
        return _video_block(block, index)
    raise ValueError(
        f"Message {index} has a block of type {kind!r}; it is one of text, image, image_url, "
        "video, video_url."
    )


def _image_block(block: dict[str, Any], index: int) -> dict[str, Any]:
    source = _source(block, index, "image", ("image", "url", "path", "base64"))
    # Without one the image itself is passed beside the messages.
    image = {} if source is None else {"image": source}
    inline = {"inline": True} if block.get("inline") else {}  # from `with_images_at`
    return {"type": "image", **image, **inline}


def _video_block(block: dict[str, Any], index: int) -> dict[str, Any]:
    source = _source(block, index, "video", ("video", "frames", "url", "path", "base64"))
    if source is None:
        return {"type": "video"}
    if is_file(source) and not isinstance(source, VideoFile):
        source = VideoFile(source)
    return {"type": "video", "video": source}


def _source(block: dict[str, Any], index: int, kind: str, keys: Sequence[str]) -> Any:
    """What a block shows: the value of the one key it has, None when it has none."""
    sources = [key for key in keys if key in block]
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
