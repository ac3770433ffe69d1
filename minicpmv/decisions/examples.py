"""Questions with their right answers, as lines of JSON."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, short
from .question import Kind, Question

_KEYS = ("question", "images", "videos", "choices", "answer", "kind")


@dataclass(frozen=True)
class Labelled:
    """One example.

    Fields:
        answer: the label that is right.
        where: for messages, as "data.jsonl, line 3".
        group: examples of one group are fitted together or held out together: those about the same
            picture know of each other.
    """

    question: Question
    images: tuple[Any, ...]
    answer: str
    where: str
    videos: tuple[Any, ...] = ()
    group: str = ""

    @property
    def key(self) -> str:
        """Tells examples apart, but for the content of their pictures."""
        shown = [self.question.text, dict(self.question.spellings), self.where, self.group]
        return hashlib.blake2b(json.dumps(shown).encode(), digest_size=8).hexdigest()


def read_examples(path: str | Path, **asking: Any) -> list[Labelled]:
    """The examples of a file with a JSON object per line:

        {"question": "What is it?", "images": ["a.png"], "choices": ["cat", "dog"], "answer": "cat"}

    `kind` is "choice" unless given; with "yesno" `choices` may be left out. Names of files are
    those beside the file itself.

    Args:
        asking: `list_choices` and `average_orders` of `Question.of`, for all examples.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is wrong; the message names it.
    """
    folder = Path(path).parent
    examples = []
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            examples.append(_example(line, where, folder, asking))
        except ArgumentError as error:
            raise ValueError(f"{where}: {error}") from None
    if not examples:
        raise ValueError(f"{path} has no examples; write one JSON object per line.")
    return examples


def _lines(path: str | Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; expected one JSON object per line.") from None
    # Not splitlines: JSON may hold other ends of lines than the line feed.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}.") from None
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number} is {short(value)}; expected an object.")
        yield number, value


def _example(
    line: Mapping[str, Any], where: str, folder: Path, asking: Mapping[str, Any]
) -> Labelled:
    unknown = sorted(set(line) - set(_KEYS))
    if unknown:
        raise ArgumentError(f"{unknown[0]!r} is not known; known are {', '.join(_KEYS)}.")
    text = line.get("question")
    if not isinstance(text, str) or not text.strip():
        raise ArgumentError(f"question is {short(text)}; it must be text.")
    kind: Kind = line.get("kind", "choice")
    question = Question.of(text, line.get("choices"), kind=kind, **asking)
    answer = line.get("answer")
    if not isinstance(answer, str) or answer not in question.labels:
        known = ", ".join(question.labels[:8])
        form = "" if isinstance(answer, str) else ", as text"
        raise ArgumentError(
            f"answer is {short(answer)}; it must be one of the choices{form}: {known}."
        )
    images, videos = (_files(line.get(name, ()), name, folder) for name in ("images", "videos"))
    group = json.dumps([images, videos]) if images or videos else text
    return Labelled(question, images, answer, where, videos, group)


def _files(names: Any, key: str, folder: Path) -> tuple[str, ...]:
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise ArgumentError(f"{key} is {short(names)}; it must be a list of names of files.")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"{key} has {short(name)}; it must be the name of a file.")
    return tuple(name if is_address(name) else str(folder / name) for name in names)


def is_address(name: str) -> bool:
    """Whether a picture is named by an address, and not as a file beside the examples."""
    return name.startswith("data:") or "://" in name
