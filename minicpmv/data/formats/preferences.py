"""Rows with two answers: RLAIF-V, RLHF-V, TRL, ms-swift (LLaMA-Factory: llama_factory.py)."""

import json
from collections.abc import Mapping
from typing import Any

from ..fields import Row, RowError, is_nothing, items, mapping, rest_of, shown, text
from ..media_fields import MediaReader, MediaWriter
from ..messages import Message, Picture, Preference
from ..placeholders import IMAGE_TAG, InOrder, written
from ..turns import preference
from .hugging_face import as_messages, as_text, write_blocks
from .llava import cannot
from .message_rows import MessageReader
from .official import plain_picture
from .swift import COLUMNS, read_messages, write_columns, write_messages

_ELSEWHERE = ("messages", "conversations", "images", "videos", "video", "rejected_response")


class RlaifV:
    """`image`, `question`, `chosen`, `rejected`: one question about one picture."""

    name = "rlaif-v"
    is_preference = True
    keys: tuple[str, ...] = ("id", "image", "question", "chosen", "rejected")

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 3 no other."""
        return 3 if "question" in row and ("chosen" in row or "rejected" in row) else 0

    def read_row(self, row: Row, number: int, media: MediaReader) -> Preference:
        """Raises RowError."""
        rest = rest_of(row, self.keys, (*_ELSEWHERE, "prompt"))
        return _one_question(row, "", row, number, media, rest)

    def write_row(self, row: Preference, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        return _start(row, media, self.name) | _question(row)


class RlhfV:
    """As RLAIF-V, with question, chosen and rejected as JSON in the column `text`."""

    name = "rlhf-v"
    is_preference = True
    keys: tuple[str, ...] = ("id", "image", "text")

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 3 no other."""
        value = row.get("text")
        is_pair = isinstance(value, str | Mapping) and "chosen" in value
        return 3 if is_pair and "question" not in row else 0

    def read_row(self, row: Row, number: int, media: MediaReader) -> Preference:
        """Raises RowError."""
        rest = rest_of(row, self.keys, (*_ELSEWHERE, "prompt", "question", "chosen", "rejected"))
        value = row.get("text")
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise RowError("text", "wrong_type", f"this is no JSON: {error}") from None
        pair = mapping(value, "text", "question, chosen and rejected")
        for key in pair:
            if key not in ("question", "chosen", "rejected"):
                raise RowError(f"text.{key}", "unknown_field", "this key would have no effect")
        return _one_question(pair, "text.", row, number, media, rest)

    def write_row(self, row: Preference, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        pair = json.dumps(_question(row), ensure_ascii=False)
        return _start(row, media, self.name) | {"text": pair}


class Trl:
    """`prompt`, `chosen`, `rejected` as text or messages, and `images`. Texts in lists are data."""

    name = "trl"
    is_preference = True
    keys = ("id", "prompt", "chosen", "rejected", "images", "image", "videos", "video")

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 3 no other."""
        others = ("question", "conversations", "messages", "instruction", "query")
        if any(not is_nothing(row.get(key)) for key in others):
            return 0
        return 3 if "chosen" in row and "rejected" in row else 2 if "chosen" in row else 0

    def read_row(self, row: Row, number: int, media: MediaReader) -> Preference:
        """Raises RowError."""
        rest = rest_of(row, self.keys, ("messages", "conversations", "rejected_response"))
        prompt, answers = row.get("prompt"), {}
        for key in ("chosen", "rejected"):
            if row.get(key) is None:
                raise RowError(key, "no_answer", f"the row has no {key}")
            answers[key] = row[key]
        start = 0
        if is_nothing(prompt):  # an implicit prompt: what both have in common
            both = [items(answers[key], key) for key in answers]
            start = len(both[0]) - 1
            if start < 1 or len(both[1]) != len(both[0]) or both[0][:start] != both[1][:start]:
                raise RowError(
                    "prompt", "not_a_row", "there is no prompt, and the answers begin differently"
                )
            prompt = both[0][:start]
        reader = MessageReader(row, media, COLUMNS)
        reader.place([prompt])
        read = reader.read(*as_messages(prompt, "prompt", "user"))
        if not all(read.fields):
            read.fields = ["prompt"]
        reader.finish()
        given = (_trl_answer(answers, "chosen", start), _trl_answer(answers, "rejected", start))
        return preference(read.messages, read.fields, given, row, number, rest)

    def write_row(self, row: Preference, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        as_blocks = bool(row.pictures) or any(as_text(message) is None for message in row.prompt)
        result["prompt"] = write_blocks(row.prompt, as_blocks, train=False)
        for key, answer in (("chosen", row.chosen), ("rejected", row.rejected)):
            content: Any = [{"type": "text", "text": answer}] if as_blocks else answer
            result[key] = [{"role": "assistant", "content": content}]
        return result | write_columns(row, media)


class SwiftPreference:
    """ms-swift: `messages` with the chosen answer, and `rejected_response` (or all messages)."""

    name = "swift-preference"
    is_preference = True
    keys = (
        "id", "messages", "images", "image", "videos", "video", "query", "response", "history",
        "system", "rejected_response", "rejected_messages",
    )  # fmt: skip

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 3 no other."""
        return 3 if "rejected_response" in row or "rejected_messages" in row else 0

    def read_row(self, row: Row, number: int, media: MediaReader) -> Preference:
        """Raises RowError."""
        rest = rest_of(row, self.keys, ("chosen", "rejected", "conversations"))
        reader = MessageReader(row, media, COLUMNS)
        read = read_messages(row, reader)
        reader.finish()
        if read.messages[-1].role != "assistant":
            raise RowError(read.fields[-1], "no_answer", "the last message is not the answer")
        answer, at = read.messages.pop(), read.fields.pop()
        if answer.pictures:
            raise RowError(at, "wrong_roles", "a picture stands in the answer")
        rejected = self._rejected(row)
        if not read.messages:
            raise RowError(at, "wrong_roles", "there is no message of a user before the answer")
        return preference(
            read.messages, read.fields, ((answer.text, at), rejected), row, number, rest
        )

    def write_row(self, row: Preference, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        answer = Message("assistant", (row.chosen,))
        result["messages"] = write_messages((*row.prompt, answer), self.name, flag=None)
        result["rejected_response"] = row.rejected
        return result | write_columns(row, media, keep_data_urls=True)

    def _rejected(self, row: Row) -> tuple[str, str]:
        if not is_nothing(row.get("rejected_messages")):
            if not is_nothing(row.get("rejected_response")):
                raise RowError(
                    "rejected_response", "unknown_field", "rejected_messages is given too"
                )
            messages = items(row["rejected_messages"], "rejected_messages")
            chosen = row.get("messages")
            if not isinstance(chosen, list | tuple) or list(chosen[:-1]) != messages[:-1]:
                raise RowError(
                    "rejected_messages",
                    "wrong_type",
                    "they differ from messages before the last one; both answers have one prompt",
                )
            place = f"rejected_messages[{len(messages) - 1}]"
            return _message_text(messages[-1], place)
        if row.get("rejected_response") is None:
            raise RowError("rejected_response", "no_answer", "the row has no rejected_response")
        return text(row["rejected_response"], "rejected_response"), "rejected_response"


def _one_question(
    pair: Row, prefix: str, row: Row, number: int, media: MediaReader, rest: dict[str, Any]
) -> Preference:
    """The preference of RLAIF-V and RLHF-V; `prefix`: where `pair` stands in the row."""
    values = {}
    for key, kind in (
        ("question", "not_a_row"),
        ("chosen", "no_answer"),
        ("rejected", "no_answer"),
    ):
        if pair.get(key) is None:
            raise RowError(f"{prefix}{key}", kind, f"the row has no {key}")
        values[key] = text(pair[key], f"{prefix}{key}")
    pictures = media.pictures(row.get("image"), "image")
    if len(pictures) > 1:
        raise RowError("image", "wrong_type", f"there are {len(pictures)} images; expected one")
    in_order = InOrder(pictures, plain_video=True)
    front = in_order.in_front([values["question"]])
    field = f"{prefix}question"
    parts = (*front, *in_order.parts(values["question"], field))
    in_order.finish()
    answers = tuple((values[key], f"{prefix}{key}") for key in ("chosen", "rejected"))
    prompt = [Message("user", parts)]
    return preference(prompt, [field], (answers[0], answers[1]), row, number, rest)


def _question(row: Preference) -> dict[str, str]:
    """Question, chosen and rejected, of a preference that is one question about one picture."""
    parts = row.prompt[0].parts
    if isinstance(parts[0], Picture) and all(isinstance(part, str) for part in parts[1:]):
        parts = parts[1:]  # it stands in front of the question by itself
    question = written(parts, lambda _: "<image>", IMAGE_TAG, "question")
    return {"question": question, "chosen": row.chosen, "rejected": row.rejected}


def _start(row: Preference, media: MediaWriter, name: str) -> dict[str, Any]:
    """Id and picture of a row of RLAIF-V and RLHF-V. Raises RowError if these cannot say it."""
    others = "trl, swift-preference, llama-factory-preference"
    if len(row.prompt) != 1:
        cannot("prompt", name, "a prompt of several messages", others)
    if len(row.pictures) > 1:
        cannot("images", name, "a row with several pictures", others)
    result: dict[str, Any] = {} if row.id is None else {"id": row.id}
    for picture in row.pictures:
        if picture.kind == "video":
            cannot(picture.field, name, "a video", others)
        plain_picture(picture, name, ("trl",))
        result["image"] = {"bytes": None, "path": media.name(picture, picture.field)}
    return result


def _trl_answer(answers: Mapping[str, Any], key: str, start: int) -> tuple[str, str]:
    """An answer and where it stands; `start`: messages of the prompt in front of it."""
    value = answers[key]
    if isinstance(value, str):
        return text(value, key), key
    messages = items(value, key)[start:]
    if len(messages) != 1:
        raise RowError(key, "wrong_type", f"there are {len(messages)} messages; expected an answer")
    return _message_text(messages[0], f"{key}[{start}]")


def _message_text(message: Any, place: str) -> tuple[str, str]:
    """The text of an assistant's message, and where it stands."""
    message = mapping(message, place, "role and content")
    if message.get("role") != "assistant":
        raise RowError(
            f"{place}.role",
            "wrong_roles",
            f"the role is {shown(message.get('role'))}; expected assistant",
        )
    content, field = message.get("content"), f"{place}.content"
    if isinstance(content, str):
        return text(content, field), field
    texts = []
    for i, block in enumerate(items(content, field, "blocks")):
        block = mapping(block, f"{field}[{i}]", "type and text")
        if block.get("type") != "text":
            raise RowError(f"{field}[{i}].type", "wrong_type", "an answer is of blocks of text")
        texts.append(text(block.get("text"), f"{field}[{i}].text"))
    return "\n".join(texts), field
