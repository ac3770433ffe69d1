"""Pictures of a row: base64, bytes, paths, or the index of another row that has them."""

import ast
import base64
import binascii
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from minicpmv.errors import short

from ..items import Picture
from .tables import Row, TsvTable

REFERENCE = 64  # characters; a cell no longer than that names a row, as in VLMEvalKit
_BASE64 = re.compile(rf"[A-Za-z0-9+/\s]{{{REFERENCE},}}={{0,2}}\s*")


class TsvPictures:
    """Finds the pictures of the rows of one TSV.

    A cell of `columns` holds base64, a list of it as Python or JSON writes lists, or the index of
    the row that holds it. Without such a column, or where its cell is empty, `paths` names files.

    Args:
        index: the column of the index.
        folders: where paths are looked for.
    """

    def __init__(
        self,
        table: TsvTable,
        index: str,
        columns: Sequence[str],
        paths: str,
        folders: Sequence[Path],
    ):
        self.table, self.index, self.columns = table, index, columns
        self.paths, self.folders = paths, folders
        self._offsets: dict[str, tuple[int, int]] = {}  # index -> offset and number of its row
        self._next = table.start, 1  # where no row has been looked at yet

    def passed(self, offset: int, number: int, row: Row) -> None:
        """Remember where a row lies."""
        self._offsets.setdefault(str(row.cells.get(self.index, "")), (offset, number))
        self._next = max(self._next, (offset, number))

    def of(self, row: Row) -> tuple[Picture, ...]:
        """The pictures of `row`, each as bytes or as a path.

        Raises:
            ValueError: it has none, or one that cannot be read; references that lead nowhere.
        """
        row = self._named(row)
        found: list[Picture] = []
        names = listed(row.cells.get(self.paths, ""), row.place, self.paths)
        for column in self.columns:
            cell = row.cells.get(column, "")
            if cell:
                found += self._of_cell(cell, row, column, ())
        if len(found) > 1 and names and len(names) != len(found):
            raise ValueError(
                f"{row.place}: {self.columns[0]} has {len(found)} pictures and {self.paths} names "
                f"{len(names)} files; expected as many."
            )
        if not found:
            found += [file_of(name, self.folders, row.place, self.paths) for name in names]
        if not found:
            columns = " or ".join(dict.fromkeys((*self.columns, self.paths)))
            raise ValueError(f"{row.place}: the column {columns} is empty; expected a picture.")
        return tuple(found)

    def _of_cell(self, cell: str, row: Row, column: str, passed: tuple[str, ...]) -> list[Picture]:
        parts = listed(cell, row.place, column)
        if len(parts) == 1 and len(parts[0]) <= REFERENCE:
            return self._referred(parts[0], row, column, passed)
        if not parts:
            raise ValueError(f"{row.place}, column {column!r}: the list is empty.")
        found: list[Picture] = []
        for part in parts:
            is_short = len(part) <= REFERENCE
            found += (
                self._referred(part, row, column, passed)
                if is_short
                else [decoded(part, row.place, column)]
            )
        return found

    def _referred(self, name: str, row: Row, column: str, passed: tuple[str, ...]) -> list[Picture]:
        own = str(row.cells.get(self.index, ""))
        name = name.strip()
        if name == own or name in passed:
            way = " -> ".join((*passed, own, name))
            raise ValueError(
                f"{row.place}, column {column!r}: the references go in a circle, {way}; expected "
                "a row with the picture in base64."
            )
        target = self._row_of(name)
        if target is None:
            if is_file(name, self.folders):
                return [file_of(name, self.folders, row.place, column)]
            try:
                return [decoded(name, row.place, column)]  # a picture of one pixel is as short
            except ValueError as error:
                raise ValueError(
                    f"{row.place}, column {column!r}: {short(name)} is neither base64 of a picture "
                    f"nor the {self.index} of another row. Download the file again."
                ) from error
        cell = target.cells.get(column, "")
        if not cell:
            raise ValueError(
                f"{row.place}, column {column!r}: refers to {self.index} {name}, and the "
                "picture of that row is empty."
            )
        return self._of_cell(cell, self._named(target), column, (*passed, own))

    def _named(self, row: Row) -> Row:
        """With its index in its place, by which it is found in other programs."""
        own = row.cells.get(self.index)
        return row if own is None else replace(row, place=f"{row.place} ({self.index} {own})")

    def _row_of(self, name: str) -> Row | None:
        """The row of an index, found in rows that were passed or looked for behind them."""
        if name not in self._offsets:
            for offset, number, row in self.table.rows_from(*self._next):
                self.passed(offset, number, row)
                if row.cells.get(self.index) == name:
                    return row
        if name not in self._offsets:
            return None
        return next(self.table.rows_from(*self._offsets[name]))[2]


def decoded(text: str, place: str, column: str) -> bytes:
    """The file that base64 `text` holds.

    Raises:
        ValueError: it is no base64, or no picture.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{place}, column {column!r}: {short(text, 20)} of {len(text)} characters is no "
            f"base64 ({error}); expected a picture. Download the file again."
        ) from error
    return known_picture(data, place, column)


def known_picture(data: bytes, place: str, column: str) -> bytes:
    """`data`, which begins like a picture.

    Raises:
        ValueError: it does not.
    """
    if not data:
        raise ValueError(f"{place}, column {column!r}: the picture is empty (0 bytes).")
    try:
        Image.open(io.BytesIO(data)).close()  # reads the header only
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"{place}, column {column!r}: {len(data)} bytes that begin with {data[:8]!r} are no "
            "picture; expected PNG, JPEG or another format of Pillow. Download the file again."
        ) from error
    return data


def file_of(name: str, folders: Sequence[Path], place: str, column: str) -> Path:
    """The file `name`, relative to one of `folders`.

    Raises:
        ValueError: it is in none of them.
    """
    for folder in folders:
        if os.path.isfile(folder / name):  # False for names that are too long, too
            return folder / name
    if name.startswith(("http://", "https://")):
        raise ValueError(f"{place}, column {column!r}: {short(name)} is an address; download it.")
    there = [folder for folder in folders if folder.is_dir()] or folders[:1]
    where = ", ".join(dict.fromkeys(repr(os.path.abspath(folder)) for folder in there))
    raise ValueError(f"{place}, column {column!r}: there is no file {short(name)} in {where}.")


def is_file(name: str, folders: Sequence[Path]) -> bool:
    """Whether one of `folders` has the file."""
    return any(os.path.isfile(folder / name) for folder in folders)


def of_value(value: Any, folders: Sequence[Path], place: str, column: str) -> list[Picture]:
    """The pictures of a cell of parquet or JSON: {"bytes", "path"}, bytes, base64, a path, lists.

    Raises:
        ValueError: one is none of these, is empty, or is not there.
    """
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        found = (of_value(each, folders, place, column) for each in value)
        return [picture for each in found for picture in each]
    if isinstance(value, dict):
        if value.get("bytes"):
            return [known_picture(value["bytes"], place, column)]
        if value.get("path"):
            return [file_of(value["path"], folders, place, column)]
        if isinstance(value.get("url"), str):
            return of_value(value["url"], folders, place, column)
    if isinstance(value, bytes):
        return [known_picture(value, place, column)]
    if isinstance(value, str):
        is_base64 = value.startswith("data:") or _BASE64.fullmatch(value)
        if is_base64 and not is_file(value, folders):
            return [decoded(value, place, column)]
        return [file_of(value, folders, place, column)]
    raise ValueError(
        f"{place}, column {column!r} is {short(value)}; expected a picture: "
        "bytes and path, base64, or the name of a file."
    )


def listed(cell: str, place: str, column: str) -> list[str]:
    """The texts of a list literal; of another text, that text; of an empty one, none.

    Raises:
        ValueError: it begins and ends like a list, and is none of texts.
    """
    if not cell:
        return []
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    return [str(each) for each in literal_list(cell, place, column)]


def literal_list(cell: str, place: str, column: str) -> list[Any]:
    """The list that Python or JSON wrote as `cell`.

    Raises:
        ValueError: it is none.
    """
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"{place}, column {column!r} is {short(cell)}; expected a list, as Python or JSON "
            "writes it."
        )
    return list(value)
