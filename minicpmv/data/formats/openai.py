"""The JSONL of OpenAI's fine-tuning: messages whose pictures are `image_url` blocks.

Text is data here: `<image>` in it is no placeholder. `"weight": 0` leaves an answer out. Ours
beyond it: `video_url`, and paths where a URL stands.
"""

from collections.abc import Mapping
from typing import Any

from ..fields import Row, RowError, is_nothing, rest_of
from ..media_fields import MediaReader, MediaWriter
from ..messages import Conversation, Message, Picture
from ..turns import conversation
from .hugging_face import blocks_of
from .llava import cannot
from .message_rows import MessageReader, train_flag
from .official import plain_picture
from .swift import OF_PAIRS

_ELSEWHERE = ("images", "image", "videos", "video", "prompt", "completion", "conversations")


class OpenAI:
    """See the head of this file."""

    name = "openai"
    is_preference = False
    keys = ("id", "messages", "parallel_tool_calls")

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 1 perhaps, 3 no other."""
        messages = row.get("messages")
        others = (*_ELSEWHERE, *OF_PAIRS)
        if not isinstance(messages, list) or any(not is_nothing(row.get(k)) for k in others):
            return 0
        kinds = {str(block.get("type")) for block in blocks_of(messages)}
        if kinds & {"image_url", "video_url"}:
            return 3
        if kinds - {"text"}:
            return 0
        dicts = [message for message in messages if isinstance(message, Mapping)]
        return 3 if any(message.get("weight") is not None for message in dicts) else 1

    def read_row(self, row: Row, number: int, media: MediaReader) -> Conversation:
        """Raises RowError."""
        rest = rest_of(row, self.keys, (*_ELSEWHERE, *OF_PAIRS, "query", "response", "system"))
        if "messages" not in row:
            raise RowError("messages", "not_a_row", "the row has no messages")
        reader = MessageReader(row, media, {}, tags_are_text=True)
        read = reader.read(row["messages"], "messages")
        return conversation(read.messages, read.fields, row, number, rest)

    def write_row(self, row: Conversation, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        result["messages"] = [_message(message, media) for message in row.messages]
        return result


def _message(message: Message, media: MediaWriter) -> dict[str, Any]:
    content: Any = message.text
    if message.pictures:
        content = [
            _block(part, media) if isinstance(part, Picture) else {"type": "text", "text": part}
            for part in message.parts
        ]
    return {"role": message.role, "content": content, **train_flag(message, "weight")}


def _block(picture: Picture, media: MediaWriter) -> dict[str, Any]:
    plain_picture(picture, "openai", ("hf",), known=("num_frames", "fps"))
    if isinstance(picture.source, tuple):
        cannot(picture.field, "openai", "a video of frames", "official, swift, llama-factory, hf")
    name = f"{picture.kind}_url"
    settings = {key: getattr(picture, key) for key in ("num_frames", "fps")}
    given = {key: value for key, value in settings.items() if value is not None}
    url = media.name(picture, picture.field, keep_data_urls=True)
    return {"type": name, name: {"url": url}, **given}
