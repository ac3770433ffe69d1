"""One row of training data, whatever format it came in.

A message is a tuple of texts and pictures in the order of the prompt. The form is canonical: two
rows that train the same compare equal. There are no empty texts, neighbouring texts are one, and a
text has lost one newline on a side where a picture stands, since the templates write it:
"<image>\\nWhat?" is (Picture, "What?"), and "a <image> b" is ("a ", Picture, " b").
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Picture:
    """A picture or a video of a message.

    Args:
        source: an absolute path, a URL, a data URL, bytes, or a PIL image; of a video, a path, a
            URL, or a tuple of frames.
        kind: "image" or "video".
        max_slice_nums: the most slices of this picture; None: as the run says.
        num_frames: frames of this video; None: as the run says.
        fps: frames per second of this video; not together with `num_frames`.
        field: where the row names it, "images[1]", for messages about faults; not compared.
    """

    source: Any
    kind: Literal["image", "video"] = "image"
    max_slice_nums: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    field: str = field(default="", compare=False)


Part = str | Picture


@dataclass(frozen=True)
class Message:
    """What one side says.

    Args:
        role: "system", "user" or "assistant".
        parts: texts and pictures in the order of the prompt, canonical.
        train: whether an answer is trained; it matters for assistants only.
    """

    role: Role
    parts: tuple[Part, ...]
    train: bool = True

    @property
    def text(self) -> str:
        """The texts of the message, without its pictures."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures and videos, in order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))


@dataclass(frozen=True)
class Conversation:
    """A row to be trained on: a system message or none, then user and assistant in turn.

    Args:
        messages: the messages.
        row: the number of the row in its file, from 0; not compared.
        id: the row's own name.
        rest: the other columns of the row, kept by conversions.
    """

    messages: tuple[Message, ...]
    row: int = field(default=0, compare=False)
    id: str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures and videos of all messages, in order."""
        return tuple(picture for message in self.messages for picture in message.pictures)


@dataclass(frozen=True)
class Preference:
    """A prompt with two answers, the first of which is better.

    Args:
        prompt: messages of which the last is a user's.
        chosen: the better answer.
        rejected: the worse answer.
        row: as in Conversation.
        id: as in Conversation.
        rest: as in Conversation.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    row: int = field(default=0, compare=False)
    id: str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures and videos of the prompt, in order."""
        return tuple(picture for message in self.prompt for picture in message.pictures)


def canonical(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts of a message in their one form; see the head of this file."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    last = len(joined) - 1
    for i, part in enumerate(joined):
        if isinstance(part, str):
            if i > 0:  # a picture stands before it
                part = part.removeprefix("\n")
            if i < last:
                part = part.removesuffix("\n")
            joined[i] = part
    return tuple(part for part in joined if part != "")


def chat_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The messages as `apply_chat_template` takes them: text alone is a string, else blocks."""
    return [{"role": message.role, "content": _content(message.parts)} for message in messages]


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, str) for part in parts):
        return "".join(str(part) for part in parts)
    return [_block(part) for part in parts]


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    source = list(part.source) if isinstance(part.source, tuple) else part.source
    settings = {name: getattr(part, name) for name in ("max_slice_nums", "num_frames", "fps")}
    given = {name: value for name, value in settings.items() if value is not None}
    return {"type": part.kind, part.kind: source, **given}
