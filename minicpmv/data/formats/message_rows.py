"""Messages of role and content, as ms-swift, Hugging Face and OpenAI write them.

A content is text, with `<image>` and `<video>` in the order of the columns beside the messages, or
a list of blocks. Texts in lists are data: a placeholder in them is a block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..fields import (
    Row,
    RowError,
    check_keys,
    flag,
    is_nothing,
    items,
    mapping,
    shown,
    text,
    whole_number,
)
from ..media_fields import Kind, MediaReader, source_of_part
from ..messages import Message, Part, Picture, canonical
from ..placeholders import IMAGE, VIDEO, InOrder
from .official import ROLES, role_of

_TRAIN_KEYS = ("train", "loss", "weight")
_SOURCES: dict[Kind, tuple[str, ...]] = {
    "image": ("image", "image_url", "path", "url", "base64"),
    "video": ("video", "video_url", "path", "url", "frames"),
}
_SETTINGS: dict[Kind, tuple[str, ...]] = {
    "image": ("max_slice_nums",),
    "video": ("num_frames", "fps"),
}


@dataclass
class ReadMessages:
    """Messages with the places where they stand."""

    messages: list[Message] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)


class MessageReader:
    """Reads the lists of messages of one row, in the order of the prompt.

    Args:
        row: the row, for its columns of pictures.
        media: of the file.
        columns: names of the columns of images and of videos; "image" beside "images".
    """

    def __init__(
        self,
        row: Row,
        media: MediaReader,
        columns: Mapping[Kind, Sequence[str]],
        *,
        tags_are_text: bool = False,
    ):
        self.media = media
        self.found: dict[Kind, list[Picture]] = {"image": [], "video": []}
        for kind, names in columns.items():
            given = [name for name in names if not is_nothing(row.get(name))]
            if len(given) > 1:
                raise RowError(given[1], "unknown_field", f"{' and '.join(given)}: give one")
            for name in given:
                self.found[kind] = media.pictures(row[name], name, kind)
        self.in_order = InOrder(self.found["image"], self.found["video"])
        self.has_media = any(self.found.values())
        self.tags_are_text = tags_are_text
        self.front: list[Picture] = []

    def place(self, lists: Sequence[Any]) -> None:
        """Look through all messages of the row: pictures without any placeholder go in front."""
        seen = [
            content
            for messages in lists
            for message in (messages if isinstance(messages, list | tuple) else [messages])
            for content in _texts(message)
        ]
        self.front = self.in_order.in_front(seen)

    def read(self, value: Any, name: str, *, answers_train: bool = True) -> ReadMessages:
        """The messages of the column `name`. Raises RowError."""
        result = ReadMessages()
        for i, item in enumerate(items(value, name)):
            place = f"{name}[{i}]"
            message = mapping(item, place, "role and content")
            check_keys(
                {k: v for k, v in message.items() if (k, v) != ("loss_scale", 1)},
                ("role", "content", *_TRAIN_KEYS),
                place,
            )
            role = role_of(message, "role", ROLES, place)
            parts = self.parts(message.get("content"), f"{place}.content")
            if role == "user" and self.front:
                parts, self.front = (*self.front, *parts), []
            given = [key for key in _TRAIN_KEYS if message.get(key) is not None]
            if len(given) > 1:
                raise RowError(
                    f"{place}.{given[1]}", "unknown_field", f"{' and '.join(given)}: give one"
                )
            train = flag(message[given[0]], f"{place}.{given[0]}") if given else True
            is_answer = role == "assistant"
            result.messages.append(Message(role, parts, (train and answers_train) or not is_answer))
            result.fields.append(f"{place}.content")
        return result

    def parts(self, content: Any, place: str) -> tuple[Part, ...]:
        """The parts of a content: text, or a list of blocks."""
        if isinstance(content, str):
            content = text(content, place)
            if self.tags_are_text:
                return canonical([content])
            return self.in_order.parts(content, place)
        if not isinstance(content, list | tuple):
            raise RowError(
                place, "wrong_type", f"this is {shown(content)}; expected text or a list of blocks"
            )
        pieces: list[Part] = []
        for i, block in enumerate(content):
            part = self._block(block, f"{place}[{i}]")
            # Templates join blocks by newlines.
            if isinstance(part, str) and pieces and isinstance(pieces[-1], str):
                part = f"\n{part}"
            if part != "":
                pieces.append(part)
        return _without_newlines(pieces)

    def finish(self) -> None:
        """Raises RowError where a picture has not been used."""
        if self.front:
            raise RowError(
                self.front[0].field,
                "picture_without_placeholder",
                "there is no message of a user to show the picture in",
            )
        self.in_order.finish()

    def _block(self, block: Any, place: str) -> Part:
        if isinstance(block, str):
            return text(block, place)
        block = mapping(block, place, "type")
        kind = block.get("type")
        if kind == "text":
            check_keys(block, ("type", "text"), place)
            return text(block.get("text"), f"{place}.text")
        if kind not in ("image", "video", "image_url", "video_url"):
            raise RowError(
                f"{place}.type",
                "wrong_type",
                f"the type is {shown(kind)}; it is one of text, image, video, image_url, video_url",
            )
        media_kind: Kind = "image" if kind.startswith("image") else "video"
        names, settings = _SOURCES[media_kind], _SETTINGS[media_kind]
        known = ("type", "index", *names, *settings)
        check_keys({k: v for k, v in block.items() if (k, v) != ("detail", "auto")}, known, place)
        chosen = _settings(block, settings, place)
        source, source_place = source_of_part(block, names, place)
        if source is not None:
            return self.media.picture(source, source_place, media_kind, **chosen)
        return self._from_column(block, media_kind, place, chosen)

    def _from_column(self, block: Row, kind: Kind, place: str, chosen: dict[str, Any]) -> Picture:
        """The picture of a block that names none: the next one of its column, or `index`."""
        tag = IMAGE if kind == "image" else VIDEO
        column, used = self.found[kind], self.in_order.used
        number = len(used[tag]) if block.get("index") is None else block["index"]
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int):
            raise RowError(
                f"{place}.index", "wrong_type", f"this is {shown(number)}; expected a number"
            )
        if not 0 <= number < len(column):
            raise RowError(
                place,
                "placeholder_without_picture",
                f"this is the block of {kind} {number}, and the row has {len(column)} {kind}s; "
                f"give one {kind} per block",
            )
        used[tag].add(number)
        found = column[number]
        return Picture(found.source, kind, field=found.field, **chosen)


def train_flag(message: Message, key: str) -> dict[str, Any]:
    """What a message says so that its answer is not trained."""
    return {} if message.train else {key: 0 if key == "weight" else False}


def _settings(block: Row, names: Sequence[str], place: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in names:
        value = block.get(name)
        if value is None:
            continue
        if name != "fps":
            result[name] = whole_number(value, f"{place}.{name}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise RowError(
                f"{place}.fps", "wrong_type", f"this is {shown(value)}; expected a number above 0"
            )
        else:
            result[name] = float(value)
    if len(result) > 1:
        raise RowError(f"{place}.fps", "unknown_field", "num_frames and fps are given; give one")
    return result


def _texts(message: Any) -> list[str]:
    """Texts of a message that may hold placeholders; blocks without a source as placeholders."""
    if isinstance(message, str):
        return [message]
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple):
        return []
    kinds = [b.get("type") for b in content if isinstance(b, Mapping)]
    return [f"<{kind}>" for kind in kinds if kind in ("image", "video")]


def _without_newlines(pieces: list[Part]) -> tuple[Part, ...]:
    """Parts of blocks: the newlines at pictures are the template's, those in texts stay."""
    last = len(pieces) - 1
    kept: list[Part] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, str):
            is_joined = i > 0 and isinstance(pieces[i - 1], str)
            before = "\n" if i > 0 and not is_joined else ""
            after = "\n" if i < last and isinstance(pieces[i + 1], Picture) else ""
            piece = f"{before}{piece}{after}"
        kept.append(piece)
    return canonical(kept)
