"""An item of a row: which columns are its question, answers, options and pictures."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minicpmv.errors import listed, short

from ..items import Item, Picture
from ..page import Page, Source, page_names
from .pictures import literal_list
from .tables import Row

# Where a source does not say: the first of these that the row has.
_USUAL: dict[str, tuple[str, ...]] = {
    "id": ("index", "id", "question_id", "questionId", "qid"),
    "question": ("question", "query", "prompt", "text"),
    "answers": ("answers", "answer", "references", "reference"),
    "options": ("options", "choices"),
    "hint": ("hint",),
    "video": ("video",),
    "pictures": ("image", "images", "picture", "pictures"),
}
_NAN = ("nan", "NaN")
_LABEL = re.compile(r"\(?[A-Z][.):]\s*")
_LETTERS = tuple(string.ascii_uppercase)
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", "")
_NO_FIELDS = ("question", "pictures", "answers")
_SUBTITLE_FOLDERS = ("subtitle", "subtitles")
_VIDEO_FOLDERS = ("", "video", "videos", "data")


class Columns:
    """Reads the items of one source.

    Args:
        page: of the source; where its references are hidden, rows need no answer.
        present: the columns of the file; None where rows differ.
        name: of the file, for errors.
        folders: where files that rows name are looked for.

    Raises:
        ValueError: a column that the source names, or a question, is not there.
    """

    def __init__(
        self,
        page: Page,
        source: Source,
        present: Sequence[str] | None,
        name: str,
        folders: Sequence[Path],
    ):
        self.page, self.source, self.name, self.folders = page, source, name, folders
        self.of = {key: _several(value) for key, value in source.columns.items()}
        if present is not None:
            self._check(present)

    def _check(self, present: Sequence[str]) -> None:
        # Of the columns of a field with several, rows may leave some out: options, pictures.
        needed = [columns[0] for columns in self.of.values() if columns[0]]
        needed += self.source.where
        if "question" not in {*self.of, *self.source.patterns}:
            needed += () if any(each in present for each in _USUAL["question"]) else ("question",)
        if self.source.kind == "tsv" and "id" not in {*self.of, *self.source.patterns}:
            needed.append("index")
        if "answers" not in self.of and not self.page.hidden:
            needed += () if any(each in present for each in _USUAL["answers"]) else ("answer",)
        missing = [column for column in dict.fromkeys(needed) if column not in present]
        if missing:
            raise ValueError(
                f"{self.name} has no column {', '.join(map(repr, missing))}; it has "
                f"{listed(present)}. Expected the columns of {self.source.file or 'the page'}."
            )

    @property
    def needs_pictures(self) -> bool:
        """Whether every row has some: of the pages of this package those that ask no video."""
        source = self.source
        return (
            self.page.name in page_names()
            and source.columns.get("pictures") != ""
            and "video" not in {*source.columns, *source.patterns}
        )

    def names(self, field: str, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns of `field`; empty where the row has none."""
        if field in self.of:
            return tuple(name for name in self.of[field] if name)
        letters = [letter for letter in _LETTERS if letter in row]
        if field == "options" and letters:
            return tuple(letters)
        return tuple([name for name in _USUAL.get(field, ()) if name in row][:1])

    def item(self, row: Row, number: int, pictures: tuple[Picture, ...]) -> Item:
        """The item of a row; `number` is its id where it has no other.

        Raises:
            ValueError: a cell is missing or is of another kind than the source says.
        """
        options = self._options(row)
        used = {name for field in _NO_FIELDS for name in self.names(field, row.cells)}
        used |= set(self.names("options", row.cells)) & set(_LETTERS)
        if len(self.of.get("question", ())) > 1:  # which of them is asked, the metric must know
            used -= set(self.of["question"])
        return Item(
            id=self.id_in(row) or str(number),
            question=self._marked(self._needed("question", row)),
            pictures=pictures,
            answers=self._answers(row, options),
            options=options,
            fields={key: _plain(cell) for key, cell in self._fields(row, used).items()},
            video=self._video(row),
        )

    def id_in(self, row: Row) -> str:
        """The id of a row; empty where it has none."""
        return id_of(self._text("id", row))

    def cleaned(self, row: Row) -> Row:
        """The row without cells that say nothing; of a TSV also options and hints that pandas
        wrote as NaN, which VLMEvalKit leaves out."""
        nothing = self.source.missing
        cells = {key: cell for key, cell in row.cells.items() if cell not in nothing}
        if self.source.kind == "tsv":
            for key in {*self.names("options", cells), *self.names("hint", cells)}:
                if cells.get(key) in _NAN:
                    del cells[key]
        return Row(row.place, cells)

    def keeps(self, row: Row) -> bool:
        """Whether the row is of the part of the data that the page asks."""
        return all(
            str(row.cells.get(key, "")) in values for key, values in self.source.where.items()
        )

    def _fields(self, row: Row, used: set[str]) -> dict[str, Any]:
        fields = {key: cell for key, cell in row.cells.items() if key not in used}
        hint = self.names("hint", row.cells)
        if hint and "hint" not in fields:
            fields["hint"] = row.cells.get(hint[0], "")
        for key, text in self.source.patterns.items():
            if key == "subtitles":
                fields[key] = self._subtitles(self._filled(text, row), row)
            elif key not in _USUAL:
                fields[key] = self._filled(text, row)
        for key, lookup in self.page.lookups.items():
            fields[key] = lookup.values.get(str(row.cells.get(lookup.column, "")), "")
        return fields

    def _marked(self, question: str) -> str:
        """The question with the places of pictures as `<image 1>`, `<image 2>` ..."""
        if not self.source.marks:
            return question
        numbers: dict[str, int] = {}

        def mark(match: re.Match[str]) -> str:
            name = match[1] if match.groups() else str(len(numbers) + 1)
            number = numbers.setdefault(name, len(numbers) + 1)
            return f"<image {name if name.isdecimal() else number}>"

        return re.sub(self.source.marks, mark, question)

    def _subtitles(self, name: str, row: Row) -> str:
        """The file of the subtitles; empty for a video that has none.

        Raises:
            ValueError: there is no folder of subtitles at all.
        """
        places = [folder / place for folder in self.folders for place in _SUBTITLE_FOLDERS]
        for place in places:
            if (place / name).is_file():
                return str(place / name)
        if not any(place.is_dir() for place in places):
            where = ", ".join(str(folder) for folder in self.folders)
            raise ValueError(
                f"{row.place}: there is no folder of subtitles in {where}. Unpack subtitle.zip "
                "there."
            )
        return ""

    def _filled(self, text: str, row: Row) -> str:
        try:
            return text.format_map(row.cells)
        except KeyError as error:
            raise ValueError(f"{row.place} has no value in the column {error}.") from error

    def _text(self, field: str, row: Row) -> str:
        if field in self.source.patterns:
            return self._filled(self.source.patterns[field], row)
        found = (row.cells.get(name) for name in self.names(field, row.cells))
        return next((str(cell) for cell in found if cell not in (None, "")), "")

    def _needed(self, field: str, row: Row) -> str:
        text = self._text(field, row)
        if not text:
            names = self.of.get(field, _USUAL[field])
            raise ValueError(f"{row.place} has no value in the column {names[0]!r}.")
        return text

    def _options(self, row: Row) -> dict[str, str]:
        options = self._written_options(row)
        texts = {letter: _LABEL.sub("", text, count=1) for letter, text in options.items()}
        labels = [_LABEL.match(text) for text in options.values()]
        own = all(
            label and letter in label.group() for letter, label in zip(options, labels, strict=True)
        )
        return texts if own else options  # "A. Paris" in the place of A is Paris

    def _written_options(self, row: Row) -> dict[str, str]:
        names = self.names("options", row.cells)
        cells = row.cells
        if len(names) != 1 or names[0] in _LETTERS:
            found = [(name, str(cells[name])) for name in names if name in cells]
            lettered = all(name in _LETTERS for name, _ in found)
            return {
                name if lettered else letter: text
                for letter, (name, text) in zip(_LETTERS, found, strict=False)
            }
        value = cells.get(names[0])
        is_text = isinstance(value, str) and value.startswith("[")
        if isinstance(value, str) and ("options" in self.source.literals or is_text):
            value = literal_list(value, row.place, names[0])
        if isinstance(value, Mapping):
            return {str(letter): str(text) for letter, text in value.items()}
        if value is None or value == "":
            return {}
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"{row.place}, column {names[0]!r} is {short(value)}; expected a list of options."
            )
        return {
            letter: str(text)
            for letter, text in zip(_LETTERS, value, strict=False)
            if text is not None and str(text)
        }

    def _answers(self, row: Row, options: Mapping[str, str]) -> tuple[str, ...]:
        found: list[Any] = []
        names = self.names("answers", row.cells)
        for name in names:
            value = row.cells.get(name)
            is_list = name == "answers" and str(value).startswith("[") and str(value).endswith("]")
            if isinstance(value, str) and (is_list or "answers" in self.source.literals):
                value = literal_list(value, row.place, name)
            found += value if isinstance(value, list | tuple) else [value]
        found = [each for each in found if each is not None]
        words = self.source.words
        texts = tuple(words.get(text, text) for text in map(_answer_text, found))
        if not texts and not self.page.hidden and self.of.get("answers") != ("",):
            column = (self.of.get("answers") or names or ("answer",))[0]
            raise ValueError(
                f"{row.place} has no value in the column {column!r}; expected the right answer."
            )
        how = self.source.answers_as
        if how == "text":
            return texts
        letters = tuple(options)
        found = [text.strip("() ") if how == "letter" else _nth(letters, text) for text in texts]
        for text, letter in zip(texts, found, strict=True):
            if options and letter not in options:
                raise ValueError(
                    f"{row.place}: the answer is {short(text)}, of {len(options)} options."
                )
        return tuple(found)

    def _video(self, row: Row) -> Path | None:
        text = self._text("video", row)
        if not text:
            return None
        for folder in self.folders:
            for place in _VIDEO_FOLDERS:
                for suffix in _VIDEO_SUFFIXES:
                    path = folder / place / f"{text}{suffix}"
                    if path.is_file() or (not suffix and path.is_dir()):
                        return path
        where = ", ".join(str(folder) for folder in self.folders)
        raise ValueError(
            f"{row.place}: there is no video {text!r} in {where}, nor a folder of its frames. "
            f"Unpack the videos there.{f' {self.source.note}' if self.source.note else ''}"
        )


def _nth(letters: Sequence[str], text: str) -> str:
    """The letter of the option that an index, from 0, names."""
    return letters[int(text)] if text.isdecimal() and int(text) < len(letters) else ""


def id_of(text: str) -> str:
    """An id; "7.0", as a column of numbers with gaps has it, is 7."""
    whole, point, rest = text.partition(".")
    return whole if point and rest.strip("0") == "" and whole.isdecimal() else text


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _answer_text(value: Any) -> str:
    """One reference: a text, or what VQA's annotations hold for one person."""
    if isinstance(value, Mapping) and "answer" in value:
        value = value["answer"]
    return str(value)


def _plain(value: Any) -> Any:
    """`value` as JSON has it; what JSON has not is written as text, and bytes by their length."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    return value
