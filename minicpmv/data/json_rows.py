"""Rows of JSON files, one at a time: a list, one object a line, or objects one after the other.

A file is read as what it holds, whatever its name says. A row that is no JSON is yielded as Broken,
and reading goes on at the next one. Of a file of any size, one buffer and one number per row are in
memory.
"""

import codecs
import io
import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..errors import short

_CHUNK = 1 << 20
_LONGEST = 64 << 20  # characters of one row; beyond them it is not looked for its end
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[{}\[\]]|"')
_SPACE = re.compile(r"\s*")

Kind = Literal["list", "lines", "values"]


@dataclass(frozen=True)
class Broken:
    """A row that cannot be read.

    Args:
        message: why.
        field: where in it.
        is_object: whether it begins like a row.
    """

    message: str
    field: str = ""
    is_object: bool = False


class JsonRows:
    """The rows of one JSON file.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty, or not in UTF-8.
    """

    def __init__(self, path: Path):
        self.path = path
        self.kind: Kind = _kind_of(path)
        self._offsets: array[int] | None = None

    def __iter__(self) -> Iterator[Any]:
        offsets = array("q")
        with self.path.open("rb") as file:
            for offset, value in self._rows(file, 0, 1, True):
                offsets.append(offset)
                yield value
        self._offsets = offsets

    def count(self) -> int:
        """How many rows there are, broken ones too."""
        return len(self._index())

    def row(self, n: int) -> Any:
        """Row n. Raises IndexError."""
        offsets = self._index()
        if not 0 <= n < len(offsets):
            raise IndexError(f"{self.path} has {len(offsets)} rows, and no row {n}")
        with self.path.open("rb") as file:
            line = 1 + _newlines(file, offsets[n])
            file.seek(offsets[n])
            return next(self._rows(file, offsets[n], line, n == 0))[1]

    def _index(self) -> "array[int]":
        if self._offsets is None:
            for _ in self:
                pass
        assert self._offsets is not None
        return self._offsets

    def _rows(
        self, file: BinaryIO, offset: int, line: int, is_first: bool
    ) -> Iterator[tuple[int, Any]]:
        if self.kind == "lines":
            return _lines(file, offset, line)
        return _Stream(file, offset, line).rows(self.kind == "list", is_first)


def _kind_of(path: Path) -> Kind:
    with path.open("rb") as file:
        head = file.read(_CHUNK)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{path} is in UTF-16; save it as UTF-8.")
        is_whole = len(head) < _CHUNK
        lines = [line for line in io.BytesIO(head.removeprefix(codecs.BOM_UTF8)) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; it must hold rows.")
    last_line = None if is_whole else lines[-1] if len(lines) > 1 else None
    objects = [n for n, line in enumerate(lines[:50]) if line is not last_line and _is_object(line)]
    begins_list = lines[0].lstrip()[:1] == b"["
    if objects and not (begins_list and objects[0] > 0 and not _is_json(lines[0])):
        return "lines"
    if begins_list:
        return "list"
    if path.suffix.lower() in (".jsonl", ".ndjson") or not is_whole:
        return "lines"
    return "values" if lines[0].lstrip()[:1] == b"{" else "lines"


def _is_object(line: bytes) -> bool:
    """Whether a line is one row of a file of lines."""
    return line[:1] == b"{" and _is_json(line)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(file: BinaryIO, offset: int, line: int) -> Iterator[tuple[int, Any]]:
    for data in file:
        start, number = offset, line
        offset, line = offset + len(data), line + 1
        if start == 0:
            data = data.removeprefix(codecs.BOM_UTF8)
        if not data.strip():
            continue
        place, is_object = f"line {number}", data.lstrip().startswith(b"{")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            yield start, Broken(f"byte {error.start} of the line is not UTF-8", place, is_object)
            continue
        decoder = _Decoder()
        text = text.strip()
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError as error:
            why = _no_json(error.msg, error.pos + 1) + _hint(text, error.pos)
            yield start, Broken(why, place, is_object)
            continue
        except (ValueError, RecursionError) as error:
            yield start, Broken(f"this is no JSON: {error}", place, is_object)
            continue
        if end < len(text):
            why = _no_json("Extra data", end + 1)
            yield start, Broken(f"{why}; one line holds one row", place, is_object)
            continue
        yield start, decoder.checked(value)


def _no_json(message: str, column: int) -> str:
    return f"this is no JSON: {message[:1].lower()}{message[1:]} at column {column}"


def _hint(text: str, place: int) -> str:
    """What people write where JSON is otherwise than Python."""
    char = text[place : place + 1]
    if char == "'":
        return "; JSON has double quotes"
    before = text[max(0, place - 1000) : place].rstrip()[-1:]
    if before == "," and char in ("]", "}"):
        return "; JSON has no comma before a closing bracket"
    if before == ",":
        following = text[place : place + 1000].lstrip()[:1]
        return "; JSON has no comma before a closing bracket" if following in ("]", "}") else ""
    words = ("True", "False", "None")
    return "; JSON writes true, false and null" if text.startswith(words, place) else ""


class _Decoder(json.JSONDecoder):
    """JSON in which NaN says nothing, as in files that pandas wrote, and no key stands twice."""

    def __init__(self) -> None:
        self.twice: str | None = None
        super().__init__(object_pairs_hook=self._object, parse_constant=self._constant)

    def checked(self, value: Any) -> Any:
        """The value that was decoded last, or why it is broken."""
        twice, self.twice = self.twice, None
        if twice is None:
            return value
        return Broken("the key stands twice in one object, and only one could be read", twice)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            self.twice = next(name for name in names if names.count(name) > 1)
        return result

    def _constant(self, name: str) -> Any:
        return None if name == "NaN" else float(name.replace("Infinity", "inf"))


class _Stream:
    """JSON values of a file, decoded from a buffer that moves along it."""

    chunk = _CHUNK  # bytes

    def __init__(self, file: BinaryIO, offset: int, line: int):
        self.file, self.offset, self.line = file, offset, line
        self.text, self.pos, self.is_end = "", 0, False
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.decoder = _Decoder()
        self.first_keys: set[str] = set()
        self.is_lost = False  # behind a row whose end cannot be told

    def rows(self, is_list: bool, is_first: bool) -> Iterator[tuple[int, Any]]:
        """Offset and value of each row, from the place where the row before ended."""
        if is_first:
            if self._peek() == "\ufeff":
                self._advance(1)
            if is_list and self._peek() == "[":
                self._advance(1)
        while True:
            start = self.offset
            char = self._peek()
            had_comma = char == ","
            if had_comma and not is_first:
                self._advance(1)
                char = self._peek()
            if char == "" and not is_list:
                return
            if char == "":
                yield start, self._broken("the file ends here; a ] is missing")
                return
            if is_list and char == "]":
                if had_comma:
                    yield start, self._broken("a comma stands before the ] at the end")
                    start = self.offset
                self._advance(1)
                if self._peek():
                    yield start, self._broken("something stands behind the ] at the end")
                return
            lacks_comma = is_list and not is_first and not had_comma
            broken = self._broken("a comma is missing before this row") if lacks_comma else None
            is_first = False
            value = self._value()
            yield start, broken or value
            if self.is_lost:
                return

    def _broken(self, message: str) -> Broken:
        return Broken(message, f"line {self.line}")

    def _peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.pos)
            assert match is not None
            self._advance(match.end() - self.pos)
            if self.pos < len(self.text) or not self._fill():
                return self.text[self.pos : self.pos + 1]

    def _fill(self) -> bool:
        """Read on; False at the end of the file."""
        if self.is_end:
            return False
        data = self.file.read(max(self.chunk, len(self.text) - self.pos))
        self.is_end = not data
        self.text = self.text[self.pos :] + self.decode.decode(data, self.is_end)
        self.pos = 0
        return not self.is_end

    def _advance(self, count: int) -> None:
        if count:
            passed = self.text[self.pos : self.pos + count]
            self.offset += len(passed.encode("utf-8", "surrogateescape"))
            self.line += passed.count("\n")
            self.pos += count

    def _value(self) -> Any:
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.pos)
            except json.JSONDecodeError as error:
                place = error.pos - self.pos
                might_go_on = error.pos >= len(self.text) - 16 or "Unterminated" in error.msg
                is_short = len(self.text) - self.pos < _LONGEST
                if might_go_on and is_short and self._fill():
                    continue
                why = error.msg.removesuffix(" starting at").removesuffix(" at")
                return self._recovered(why[:1].lower() + why[1:], place)
            except (ValueError, RecursionError) as error:
                return self._recovered(str(error), 0)
            if end == len(self.text) and self._fill():
                continue  # a number may go on
            break
        value = self.decoder.checked(value)
        if isinstance(value, dict) and value:
            self.first_keys.add(next(iter(value)))
        try:
            self.text[self.pos : end].encode()
        except UnicodeEncodeError:
            value = self._broken("there are bytes that are not UTF-8")
        self._advance(end - self.pos)
        return value

    def _recovered(self, why: str, place: int) -> Broken:
        """Go to the end of a broken value, if it can be told; `place`: of the error in it."""
        self.decoder.twice = None
        while len(self.text) - self.pos < _CHUNK and self._fill():
            pass
        end = self._end_of_broken()
        found = self.pos + place if end is None else min(self.pos + place, end)
        line = f"line {self.line + self.text.count(chr(10), self.pos, found)}"
        is_object = self.text.startswith("{", self.pos)
        message = f"this is no JSON: {why} near {short(self.text[found : found + 20])}"
        message += _hint(self.text, found)
        if end is not None:
            self._advance(end - self.pos)
            return Broken(message, line, is_object)
        self.is_lost = True
        return Broken(f"{message}; nothing behind it can be read", line, is_object)

    def _end_of_broken(self) -> int | None:
        """Where the value ends: at its own bracket, or before what begins like another row."""
        keys = self.first_keys or set(
            re.findall(r'\{\s*"([^"\\\n]+)"', self.text[self.pos : self.pos + 1000])[:1]
        )
        next_row = None
        if keys:
            begins = re.compile(rf'\{{\s*"(?:{"|".join(map(re.escape, keys))})"\s*:')
            for match in begins.finditer(self.text, self.pos + 1):
                start = max(self.pos, match.start() - 1000)
                before = self.text[start : match.start()].rstrip()
                if before[-1:] not in (":", "["):
                    next_row = len(before.removesuffix(",").rstrip()) + start
                    break
        ends = [place for place in (self._balanced(), next_row) if place is not None]
        if not ends:
            return None
        return min(ends) if self.text[self.pos] == "," else max(min(ends), self.pos + 1)

    def _balanced(self) -> int | None:
        """Where the brackets of the value are closed, if a row can end there."""
        if self.text[self.pos] not in "{[":
            match = re.compile(r"[^,\]\n]*").match(self.text, self.pos)
            return match.end() if match else None
        open_brackets: list[str] = []
        for match in _TOKEN.finditer(self.text, self.pos):
            token = match.group()
            if token == '"':
                return None
            if token in ("{", "["):
                open_brackets.append({"{": "}", "[": "]"}[token])
            elif token in ("}", "]"):
                if token != open_brackets.pop():
                    return None
                if not open_brackets:
                    follows = self.text[match.end() : match.end() + 100].lstrip()[:1]
                    return match.end() if follows in (",", "]", "") else None
        return None


def _newlines(file: BinaryIO, until: int) -> int:
    count = 0
    while until > 0:
        data = file.read(min(_CHUNK, until))
        if not data:
            break
        count, until = count + data.count(b"\n"), until - len(data)
    return count
