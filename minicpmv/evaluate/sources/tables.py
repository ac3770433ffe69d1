"""Rows of TSV, JSON and parquet files, one at a time, with the place of each for error messages."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from minicpmv.data.json_rows import Broken, JsonRows
from minicpmv.data.table_rows import ArrowRows, ParquetRows, arrow_library

csv.field_size_limit(2**31 - 1)  # a cell may hold pictures; the default is 128 KiB


@dataclass(frozen=True)
class Row:
    """One row of a file. `place` names it: "OCRBench.tsv, row 3"; cells without a value are left
    out."""

    place: str
    cells: dict[str, Any]


class Table(Protocol):
    """A file of rows. `columns` is None where rows need not have the same."""

    path: Path

    @property
    def columns(self) -> tuple[str, ...] | None: ...

    def __iter__(self) -> Iterator[Row]: ...

    def row(self, number: int) -> Row:
        """A row by its number, from 0."""


class TsvTable:
    """A TSV as pandas writes and VLMEvalKit reads it: quotes around cells with tabs or line ends,
    quotes in them doubled. A byte order mark and CRLF are read too. Only an empty cell has no
    value: "None" and "NA" are words.

    Rows can be read again by the offset of their first byte, so a picture that other rows refer
    to need not stay in memory.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty, is no UTF-8, or names a column twice.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            lines = _Lines(file, path.name)
            header = next(csv.reader(lines, delimiter="\t"), None)
            self.start = lines.offset
        if not header:
            raise ValueError(f"{path} is empty; expected a line of column names.")
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path}: the column {twice!r} is there twice.")
        self.columns: tuple[str, ...] = tuple(header)

    def __iter__(self) -> Iterator[Row]:
        return (row for _, _, row in self.rows_from(self.start, 1))

    def row(self, number: int) -> Row:
        return next(islice(self, number, None))

    def rows_from(self, offset: int, number: int) -> Iterator[tuple[int, int, Row]]:
        """Offset, number (from 1) and row of all rows from `offset`, where row `number` begins.

        Raises:
            ValueError: a row has more cells than there are columns, a quote is not closed, or
                bytes are no UTF-8.
        """
        with self.path.open("rb") as file:
            file.seek(offset)
            lines = _Lines(file, self.path.name, offset)
            reader = csv.reader(lines, delimiter="\t")
            while True:
                start, place = lines.offset, f"{self.path.name}, row {number}"
                lines.place = place
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise ValueError(f"{place} cannot be read: {error}.") from error
                if lines.is_done and lines.offset > start:
                    raise ValueError(
                        f"{place}: a quote is opened and not closed before the end of the file. "
                        "The file was cut off; download it again."
                    )
                if cells is None:
                    return
                if not cells:  # an empty line
                    continue
                if len(cells) > len(self.columns):
                    raise ValueError(
                        f"{place} has {len(cells)} cells; the first line names "
                        f"{len(self.columns)} columns."
                    )
                named = zip(self.columns, cells, strict=False)
                yield start, number, Row(place, {key: cell for key, cell in named if cell})
                number += 1


class _Lines:
    """Lines of a file of bytes as text, with the offset behind the last one."""

    def __init__(self, file: BinaryIO, name: str, offset: int = 0):
        self.file, self.offset, self.is_done = file, offset, False
        self.place = f"{name}, first line"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            self.is_done = True
            raise StopIteration
        encoding = "utf-8" if self.offset else "utf-8-sig"
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError as error:
            byte = self.offset + error.start
            raise ValueError(f"{self.place}: byte {byte} of the file is not UTF-8.") from error
        self.offset += len(line)
        return text


class JsonTable:
    """JSON objects: one a line, or a list of them."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path):
        self.path = path
        self._rows = JsonRows(path)
        first = next(iter(self._rows), None)
        self.first: dict[str, Any] = first if isinstance(first, dict) else {}

    def __iter__(self) -> Iterator[Row]:
        return _checked(self._rows, self.path.name)

    def row(self, number: int) -> Row:
        return _row(self._rows.row(number), f"{self.path.name}, row {number + 1}")


class ParquetTable:
    """The rows of parquet files of one data set, read group by group."""

    def __init__(self, paths: list[Path]):
        self.path = paths[0]
        self._files = [(path, ParquetRows([path])) for path in paths]
        pyarrow = arrow_library()
        self.columns: tuple[str, ...] = tuple(pyarrow.parquet.read_schema(self.path).names)
        self.count = sum(rows.count() for _, rows in self._files)

    def __iter__(self) -> Iterator[Row]:
        for path, rows in self._files:
            yield from _checked(rows, path.name)

    def row(self, number: int) -> Row:
        for path, rows in self._files:
            if number < rows.count():
                return _row(rows.row(number), f"{path.name}, row {number + 1}")
            number -= rows.count()
        raise IndexError(f"{self.path} has no such row")


class ArrowTable:
    """The rows of a folder that `Dataset.save_to_disk` of the library datasets wrote."""

    columns: tuple[str, ...] | None = None

    def __init__(self, folder: Path):
        self.path = folder
        self._rows = ArrowRows(folder)

    def __iter__(self) -> Iterator[Row]:
        return _checked(self._rows, self.path.name)

    def row(self, number: int) -> Row:
        return _row(self._rows.row(number), f"{self.path.name}, row {number + 1}")


def _checked(rows: Any, name: str) -> Iterator[Row]:
    """Raises ValueError at the first row that is broken or no object."""
    for number, cells in enumerate(rows, 1):
        yield _row(cells, f"{name}, row {number}")


def _row(cells: Any, place: str) -> Row:
    if isinstance(cells, Broken):
        where = f" ({cells.field})" if cells.field else ""
        raise ValueError(f"{place}{where}: {cells.message}.")
    if not isinstance(cells, dict):
        raise ValueError(f"{place} is {type(cells).__name__}; expected an object with columns.")
    return Row(place, {key: cell for key, cell in cells.items() if _has_value(cell)})


def _has_value(cell: Any) -> bool:
    """pandas writes no value as None, or in a column of numbers as NaN."""
    return cell is not None and not (isinstance(cell, float) and isnan(cell))
