"""Items of conversations: one question and its answer, in any format that training reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minicpmv.data.faults import Fault
from minicpmv.data.files import open_rows
from minicpmv.data.messages import Conversation, Message
from minicpmv.data.messages import Picture as Shown

from ..items import Item, Picture


def is_conversation(row: dict[str, Any]) -> bool:
    """Whether a row of JSON holds messages, and no question."""
    return "question" not in row and any(
        isinstance(row.get(key), list) for key in ("messages", "conversations", "conversation")
    )


def read_conversations(path: Path) -> Iterator[Item]:
    """The items of a file of conversations: what is asked, and the reply as the answer.

    Where pictures stand among the words, `<image 1>` and so on mark their places.

    Raises:
        ValueError: a row cannot be read, or holds more than one question and one answer.
    """
    for number, row in enumerate(open_rows(path), 1):
        place = f"{path.name}, row {number}"
        if isinstance(row, Fault):
            field = f", {row.field}" if row.field else ""
            raise ValueError(f"{place}{field}: {row.message}.")
        if not isinstance(row, Conversation):
            raise ValueError(f"{place} has two answers, for training; expected one.")
        turns = [message for message in row.messages if message.role != "system"]
        if [turn.role for turn in turns] != ["user", "assistant"]:
            raise ValueError(
                f"{place} has {len(turns)} messages; expected one question and one answer."
            )
        question, answer = turns
        videos = [shown.source for shown in question.pictures if shown.kind == "video"]
        if len(videos) > 1 or any(not isinstance(video, str | Path) for video in videos):
            raise ValueError(f"{place}: expected at most one video, and as a file.")
        yield Item(
            id=row.id or str(number),
            question=_marked(question),
            pictures=tuple(_picture(each) for each in question.pictures if each.kind == "image"),
            answers=(answer.text,),
            fields=dict(row.rest),
            video=Path(videos[0]) if videos else None,
        )


def _marked(message: Message) -> str:
    parts = list(message.parts)
    while parts and isinstance(parts[0], Shown):
        parts.pop(0)  # in front, where they are shown anyway
    if not any(isinstance(part, Shown) for part in parts):
        return "".join(map(str, parts))
    images = [part for part in message.parts if isinstance(part, Shown) and part.kind == "image"]
    return "".join(
        part
        if isinstance(part, str)
        else f"<image {images.index(part) + 1}>"
        if part.kind == "image"
        else ""
        for part in message.parts
    )


def _picture(shown: Shown) -> Picture:
    return Path(shown.source) if isinstance(shown.source, str) else shown.source
