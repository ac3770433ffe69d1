"""Pictures of rows of JSON and parquet, whose cells may be what VLMEvalKit's TSV files hold: the
index of another row, or a list written as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minicpmv.errors import short

from ..items import Picture
from .pictures import REFERENCE, is_file, literal_list, of_value
from .rows import Columns, id_of
from .tables import Row, Table


class Referred:
    """Finds the pictures of the rows of one table.

    Args:
        columns: says which column is the id that other rows refer to.
        folders: where files that rows name are looked for.
    """

    def __init__(self, table: Table, columns: Columns, folders: Sequence[Path]):
        self._table, self._columns, self._folders = table, columns, folders
        self._rows: dict[str, int] | None = None  # id -> number of the row, once one is looked for

    def pictures(self, row: Row, column: str) -> list[Picture]:
        """Those of a cell.

        Raises:
            ValueError: one cannot be read, or references lead nowhere.
        """
        return self._of(row.cells.get(column), row, column, ())

    def _of(self, value: Any, row: Row, column: str, passed: tuple[str, ...]) -> list[Picture]:
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            value = literal_list(value, row.place, column)
        if isinstance(value, list | tuple):
            return [picture for each in value for picture in self._of(each, row, column, passed)]
        is_number = isinstance(value, int) and not isinstance(value, bool)
        is_name = isinstance(value, str) and 0 < len(value) <= REFERENCE
        if is_number or (is_name and not is_file(value, self._folders)):
            name = id_of(str(value).strip())
            target = self._row_of(name)
            if target is not None:
                own = self._columns.id_in(row)
                if name == own or name in passed:
                    way = " -> ".join((*passed, own, name))
                    raise ValueError(
                        f"{row.place}, column {column!r}: the references go in a circle, {way}; "
                        "expected a row with the picture itself."
                    )
                if target.cells.get(column) in (None, ""):
                    raise ValueError(
                        f"{row.place}, column {column!r}: refers to the row {short(name)}, and "
                        "the picture of that row is empty."
                    )
                return self._of(target.cells[column], target, column, (*passed, own))
        return of_value(value, self._folders, row.place, column)

    def _row_of(self, name: str) -> Row | None:
        if self._rows is None:
            self._rows = {}
            for number, row in enumerate(self._table):
                self._rows.setdefault(self._columns.id_in(row), number)
        found = self._rows.get(name) if name else None
        return None if found is None else self._table.row(found)
