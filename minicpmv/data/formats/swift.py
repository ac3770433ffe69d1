"""The JSONL of ms-swift: `messages` with `<image>` and `<video>` in the order of two columns.

Older files have `query`, `response`, `history` and `system`. A row without any `<image>` shows its
images in front of the first message of the user, as ms-swift does.
"""

from typing import Any

from ..fields import Row, RowError, is_nothing, items, rest_of, text
from ..media_fields import Kind, MediaReader, MediaWriter
from ..messages import Conversation, Message
from ..placeholders import ANY_TAG, written
from ..turns import conversation
from .message_rows import MessageReader, ReadMessages, train_flag
from .official import plain_picture

COLUMNS: dict[Kind, tuple[str, ...]] = {"image": ("images", "image"), "video": ("videos", "video")}
OF_PAIRS = ("chosen", "rejected", "rejected_response", "rejected_messages")
OLDER = ("query", "response", "history", "system")


class Swift:
    """See the head of this file."""

    name = "swift"
    is_preference = False
    keys = ("id", "messages", "images", "image", "videos", "video", *OLDER)

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 1 perhaps, 3 no other."""
        if any(not is_nothing(row.get(key)) for key in OF_PAIRS):
            return 0
        messages = row.get("messages")
        if not isinstance(messages, list):
            return 3 if "query" in row and "response" in row else 0
        dicts = [message for message in messages if isinstance(message, dict)]
        if any(message.get("loss") is not None for message in dicts):
            return 3
        if any(isinstance(message.get("content"), list) for message in dicts):
            return 0
        media = [row.get(key) for key in ("images", "videos")]
        named = [m for value in media if isinstance(value, list) for m in value]
        return 2 if any(isinstance(item, str) for item in named) else 1

    def read_row(self, row: Row, number: int, media: MediaReader) -> Conversation:
        """Raises RowError."""
        rest = rest_of(row, self.keys, (*OF_PAIRS, "conversations"))
        reader = MessageReader(row, media, COLUMNS)
        read = read_messages(row, reader)
        reader.finish()
        return conversation(read.messages, read.fields, row, number, rest)

    def write_row(self, row: Conversation, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        result["messages"] = write_messages(row.messages, self.name, flag="loss")
        return result | write_columns(row, media, keep_data_urls=True)


def read_messages(row: Row, reader: MessageReader, *, answer: bool = True) -> ReadMessages:
    """The messages of a row: of `messages`, or of the older columns."""
    if not is_nothing(row.get("messages")):
        older = [key for key in OLDER[:3] if not is_nothing(row.get(key))]
        if older:
            raise RowError(older[0], "unknown_field", f"messages and {older[0]} are given")
        reader.place([row["messages"]])
        read = reader.read(row["messages"], "messages")
        system = row.get("system")
        if not is_nothing(system) and not (read.messages and read.messages[0].role == "system"):
            read.messages.insert(
                0, Message("system", reader.parts(text(system, "system"), "system"))
            )
            read.fields.insert(0, "system")
        return read
    if "query" not in row and "history" not in row:
        if "messages" in row:
            items(row["messages"], "messages")
        raise RowError("messages", "not_a_row", "the row has no messages")
    said = _older(row, answer)
    contents = [{"role": role, "content": row_text} for role, row_text, _ in said]
    reader.place([contents])
    read = reader.read(contents, "messages")
    read.fields = [place for _, _, place in said]
    return read


def _older(row: Row, answer: bool) -> list[tuple[str, str, str]]:
    """Role, text and place of the messages of the older columns."""
    said: list[tuple[str, str, str]] = []
    if not is_nothing(row.get("system")):
        said.append(("system", text(row["system"], "system"), "system"))
    said += history_of(row.get("history"), "history")
    for key, role in (("query", "user"), ("response", "assistant")):
        if key == "response" and not answer:
            continue
        if row.get(key) is None:
            kind = "no_answer" if key == "response" else "not_a_row"
            raise RowError(key, kind, f"the row has no {key}")
        said.append((role, text(row[key], key), key))
    return said


def history_of(value: Any, name: str) -> list[tuple[str, str, str]]:
    """Role, text and place of former turns: pairs of a question and an answer."""
    said: list[tuple[str, str, str]] = []
    for i, pair in enumerate([] if is_nothing(value) else items(value, name, "pairs")):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(f"{name}[{i}]", "wrong_type", "expected a question and an answer")
        for j, role in enumerate(("user", "assistant")):
            place = f"{name}[{i}][{j}]"
            said.append((role, text(pair[j], place), place))
    return said


def write_messages(
    messages: tuple[Message, ...], name: str, *, flag: str | None
) -> list[dict[str, Any]]:
    """Messages with `<image>` and `<video>`; `flag`: the key for answers that are not trained."""
    result: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        place = f"messages[{i}]"
        for picture in message.pictures:
            plain_picture(picture, name, ("hf",))
        content = written(message.parts, lambda p: f"<{p.kind}>", ANY_TAG, f"{place}.content")
        flags = train_flag(message, flag) if flag else {}
        result.append({"role": message.role, "content": content, **flags})
    return result


def write_columns(row: Any, media: MediaWriter, *, keep_data_urls: bool = False) -> dict[str, Any]:
    """The columns `images` and `videos`."""
    result: dict[str, Any] = {}
    for kind, name in (("image", "images"), ("video", "videos")):
        found = [
            media.name(picture, picture.field, keep_data_urls=keep_data_urls)
            for picture in row.pictures
            if picture.kind == kind
        ]
        if found:
            result[name] = found
    return result
