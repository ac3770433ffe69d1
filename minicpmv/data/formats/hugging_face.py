"""Rows of Hugging Face `datasets`, as TRL reads them: `messages` and `images`.

A content is text or blocks. `prompt` and `completion` are read too; there only the completion is
trained. Ours beyond it: `videos`, `max_slice_nums`, `num_frames` and `fps` in a block, and
`"train": false` in a message.
"""

from typing import Any

from ..fields import Row, RowError, is_nothing, rest_of
from ..media_fields import MediaReader, MediaWriter
from ..messages import Conversation, Message, Picture
from ..turns import conversation
from .message_rows import MessageReader, train_flag
from .swift import COLUMNS, OF_PAIRS, write_columns

Block = dict[str, Any]


class HuggingFace:
    """See the head of this file."""

    name = "hf"
    is_preference = False
    keys = ("id", "messages", "prompt", "completion", "images", "image", "videos", "video")

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 1 perhaps, 3 no other."""
        if any(not is_nothing(row.get(key)) for key in OF_PAIRS):
            return 0
        messages = row.get("messages")
        if not isinstance(messages, list):
            return 3 if "prompt" in row and "completion" in row else 0
        kinds = {str(block.get("type")) for block in blocks_of(messages)}
        if kinds & {"image", "video"}:
            return 3
        if kinds - {"text"}:
            return 1
        images = row.get("images")
        has_dicts = isinstance(images, list) and any(isinstance(item, dict) for item in images)
        return 3 if has_dicts else 2 if kinds or not is_nothing(row.get("image")) else 1

    def read_row(self, row: Row, number: int, media: MediaReader) -> Conversation:
        """Raises RowError."""
        rest = rest_of(row, self.keys, (*OF_PAIRS, "conversations", "query", "response", "system"))
        reader = MessageReader(row, media, COLUMNS)
        if not is_nothing(row.get("messages")) or "prompt" not in row:
            if "messages" not in row:
                raise RowError("messages", "not_a_row", "the row has no messages")
            for key in ("prompt", "completion"):
                if not is_nothing(row.get(key)):
                    raise RowError(key, "unknown_field", f"messages and {key} are given; give one")
            reader.place([row["messages"]])
            read = reader.read(row["messages"], "messages")
        else:
            if row.get("completion") is None:
                raise RowError("completion", "no_answer", "the row has no completion")
            reader.place([row["prompt"], row["completion"]])
            read = reader.read(*as_messages(row["prompt"], "prompt", "user"), answers_train=False)
            more = reader.read(*as_messages(row["completion"], "completion", "assistant"))
            read.messages += more.messages
            read.fields += more.fields
        reader.finish()
        return conversation(read.messages, read.fields, row, number, rest)

    def write_row(self, row: Conversation, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        result["messages"] = write_blocks(row.messages, bool(row.pictures))
        return result | write_columns(row, media)


def as_messages(value: Any, name: str, role: str) -> tuple[Any, str]:
    """A column that is text or messages, as messages."""
    return ([{"role": role, "content": value}] if isinstance(value, str) else value), name


def blocks_of(messages: list[Any]) -> list[Block]:
    """The blocks of all contents."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    lists = [content for content in contents if isinstance(content, list)]
    return [block for content in lists for block in content if isinstance(block, dict)]


def write_blocks(
    messages: tuple[Message, ...], as_blocks: bool, *, train: bool = True
) -> list[dict[str, Any]]:
    """Messages for rows with the columns `images` and `videos`.

    Args:
        messages: the messages.
        as_blocks: whether contents are lists of blocks; text else.
        train: whether to write which answers are not trained.
    """
    result = []
    for message in messages:
        text_only = as_text(message) if not as_blocks else None
        content = [_block(part) for part in message.parts] if text_only is None else text_only
        flags = train_flag(message, "train") if train else {}
        result.append({"role": message.role, "content": content, **flags})
    return result


def as_text(message: Message) -> str | None:
    """The content as text; None where it would be read as more than text."""
    found = "<image>" in message.text or "<video>" in message.text or message.pictures
    return None if found else message.text


def _block(part: str | Picture) -> Block:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    names = ("max_slice_nums", "num_frames", "fps")
    settings = {name: getattr(part, name) for name in names}
    return {"type": part.kind} | {k: v for k, v in settings.items() if v is not None}
