"""A run is a folder: what was asked of which model, and every answer as soon as it is there.

run.json          settings that answers of one run share, and what is known beside them
answers.jsonl     a line for each answer or failure; in the order of the page once all are there
judgements.jsonl  what the judge said
scores.json       the table of the last scoring
report.html       failures with their pictures
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..appending import Appended
from ..durable import put_in_place
from ..errors import short

SETTINGS, ANSWERS, SCORES = "run.json", "answers.jsonl", "scores.json"
JUDGEMENTS, REPORT = "judgements.jsonl", "report.html"


@dataclass(frozen=True)
class Answered:
    """What came of one item.

    Fields:
        prompt: stands for what was asked, words and pictures.
        answer: None: it failed, and `error` says why; it is asked again when the run goes on.
        tokens, seconds: of the answer, where they are known.
        finish: "stop", or "length" where the answer was cut.
    """

    id: str
    prompt: str
    answer: str | None
    error: str = ""
    tokens: int = 0
    seconds: float = 0.0
    finish: str = "stop"


class Run:
    """A folder that is there already, to be read.

    Attributes:
        settings: what its answers share. about: what is known beside that.
        answers: what came of each item, by its id.

    Raises:
        OSError: the folder is not there. ValueError: it holds no run.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / SETTINGS).is_file():
            known = "no such folder" if not self.path.is_dir() else f"it has no {SETTINGS}"
            raise FileNotFoundError(
                f"{self.path} is no run of minicpmv evaluate: {known}. Give the folder that --out "
                "named."
            )
        self.settings, self.about = _read_settings(self.path / SETTINGS)
        self.answers: dict[str, Answered] = {}
        file = self.path / ANSWERS
        if file.is_file():
            for answered in _lines(file)[0]:
                self.answers[answered.id] = answered

    def scores(self) -> dict[str, Any] | None:
        """What the last scoring wrote, if any."""
        file = self.path / SCORES
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


class RunJournal(Appended):
    """Answers of a run on their way into its folder, by one process at a time.

    Args:
        path: the folder; made when it is not there.
        settings: JSON values that all answers of the run share.
        about: what is only written down.

    Raises:
        OSError: the folder cannot be written, or another process writes it.
        ValueError: it holds answers of other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], about: Mapping[str, Any]):
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))
        self.answers: dict[str, Answered] = {}
        self._about = about
        self.path.mkdir(parents=True, exist_ok=True)
        super().__init__(self.path / ANSWERS, known_as=self.path)

    def _begin(self) -> None:
        assert self._file is not None
        self._check()
        answers, end = _lines(self.path / ANSWERS)
        self._file.truncate(end)
        self.answers = {answered.id: answered for answered in answers}
        write_json(self.path / SETTINGS, {"settings": self.settings, "about": self._about})

    def _check(self) -> None:
        """Refuse a folder of other settings, by what differs."""
        if not (self.path / SETTINGS).is_file():
            if os.path.getsize(self.path / ANSWERS):
                raise ValueError(
                    f"{self.path} has {ANSWERS} and no {SETTINGS}: it is no run. Give another "
                    "--out."
                )
            return
        found, _ = _read_settings(self.path / SETTINGS)
        for name, old, new in _differences(found, self.settings):
            raise ValueError(
                f"{self.path} holds answers with {name} {short(old)}, and this run has "
                f"{short(new)}. Give another --out, or remove that folder."
            )

    def known(self, item_id: str, prompt: str) -> bool:
        """Whether the item has its answer; a failure is none.

        Raises:
            ValueError: something else was asked then.
        """
        found = self.answers.get(item_id)
        if found is None or found.answer is None:
            return False
        if found.prompt != prompt:
            raise ValueError(
                f"{self.path / ANSWERS} has an answer to item {item_id!r}, which was asked "
                "otherwise: its question, its pictures or its solved examples have changed since. "
                "Give another --out, or remove that folder."
            )
        return True

    def add(self, answered: Answered) -> None:
        """Append an answer or a failure.

        Raises:
            OSError: the disk is full, or gone; what was kept before stays.
        """
        self._append(_line_of(answered))
        self.answers[answered.id] = answered

    def put_in_order(self, ids: Iterable[str]) -> None:
        """Write the answers anew in this order, one line each; those of other items come last."""
        new = self.path / f"{ANSWERS}.new"
        left = dict(self.answers)
        ordered = [left.pop(each) for each in ids if each in left]
        with new.open("wb") as file:
            for answered in [*ordered, *left.values()]:
                file.write(_line_of(answered))
        put_in_place(new, self.path / ANSWERS)
        self.answers = {each.id: each for each in [*ordered, *left.values()]}


def digest_of(*parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for JSON values and bytes."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, ensure_ascii=False).encode()
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    put_in_place(new, path)


def _line_of(answered: Answered) -> bytes:
    fields = {name: value for name, value in asdict(answered).items() if value != ""}
    if answered.answer is not None:
        fields["answer"] = answered.answer  # the empty one, too
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _lines(file: Path) -> tuple[list[Answered], int]:
    """The answers of a file, and the offset at which its last whole line ends."""
    found, end = [], 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            if not line.strip():
                end += len(line)
                continue
            try:
                answered = _checked(Answered(**json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{file}, line {number} is no answer of an evaluation ({error}). Give another "
                    "--out, or remove that line."
                ) from None
            found.append(answered)
            end += len(line)
    return found, end


def _checked(answered: Answered) -> Answered:
    """Raises ValueError where a field that is read again is of another kind."""
    if not isinstance(answered.id, str) or not isinstance(answered.prompt, str):
        raise ValueError("its id and its prompt must be texts")
    if not isinstance(answered.answer, str | None) or not isinstance(answered.error, str):
        raise ValueError("its answer and its error must be texts")
    return answered


def _read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["settings"]), dict(found["about"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} does not describe a run of minicpmv evaluate.") from None


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], before: str = ""
) -> Iterable[tuple[str, Any, Any]]:
    for name in {**old, **new}:
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{before}{name}.")
        elif was != now:
            yield f"{before}{name}", was, now
