"""The JSON of LLaVA: `id`, `image` (a path or a list), `conversations` of from and value."""

from collections.abc import Mapping
from typing import Any

from ..fields import Row, RowError, check_keys, items, mapping, rest_of, text
from ..media_fields import MediaReader, MediaWriter
from ..messages import Conversation, Message, Role
from ..placeholders import IMAGE_TAG, InOrder, written
from ..turns import conversation
from .official import plain_picture, role_of

ROLES: dict[Any, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


class Llava:
    """See the head of this file."""

    name = "llava"
    is_preference = False
    keys = ("id", "image", "conversations")

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 3 no other."""
        messages = row.get("conversations")
        if not isinstance(messages, list) or "chosen" in row:
            return 0
        first = messages[0] if messages else None
        return 3 if isinstance(first, Mapping) and ("from" in first or "value" in first) else 0

    def read_row(self, row: Row, number: int, media: MediaReader) -> Conversation:
        """Raises RowError."""
        refused = ("images", "video", "videos", "messages", "chosen", "rejected", "system")
        rest = rest_of(row, self.keys, refused)
        if "conversations" not in row:
            raise RowError("conversations", "not_a_row", "the row has no conversations")
        pictures = InOrder(media.pictures(row.get("image"), "image"), plain_video=True)
        messages, fields = [], []
        for i, item in enumerate(items(row["conversations"], "conversations")):
            field = f"conversations[{i}]"
            message = mapping(item, field, "from and value")
            check_keys(message, ("from", "value"), field)
            role = role_of(message, "from", ROLES, field)
            if "value" not in message:
                raise RowError(f"{field}.value", "wrong_type", "the message has no value")
            content = text(message["value"], f"{field}.value")
            messages.append(Message(role, pictures.parts(content, f"{field}.value")))
            fields.append(f"{field}.value")
        pictures.finish()
        return conversation(messages, fields, row, number, rest)

    def write_row(self, row: Conversation, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        for picture in row.pictures:
            only_images(
                picture.kind, picture.field, self.name, "official, swift, llama-factory, hf"
            )
            plain_picture(picture, self.name, ("hf",))
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        paths = [media.name(picture, picture.field) for picture in row.pictures]
        if paths:
            result["image"] = paths[0] if len(paths) == 1 else paths
        names = {"user": "human", "assistant": "gpt"}
        result["conversations"] = []
        for i, message in enumerate(row.messages):
            field = f"conversations[{i}]"
            if message.role == "system":
                cannot(
                    field,
                    self.name,
                    "a system message",
                    "official, swift, llama-factory, hf, openai",
                )
            all_trained(message, field, self.name)
            value = written(message.parts, lambda _: "<image>", IMAGE_TAG, f"{field}.value")
            result["conversations"].append({"from": names[message.role], "value": value})
        return result


def cannot(field: str, name: str, what: str, others: str) -> None:
    """Raises the RowError of a row that a format cannot say."""
    raise RowError(
        field,
        "unknown_field",
        f"{what} cannot be said in the format {name}; formats that can: {others}",
    )


def only_images(kind: str, field: str, name: str, others: str) -> None:
    """Raises RowError for a video."""
    if kind == "video":
        cannot(field, name, "a video", others)


def all_trained(message: Message, field: str, name: str) -> None:
    """Raises RowError for an answer that is not to be trained."""
    if not message.train and message.role == "assistant":
        cannot(field, name, "an answer that is not trained", "official, swift, hf, openai")
