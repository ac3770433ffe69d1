"""The items of a page, read row by row from TSV, parquet, JSON lines or a folder."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import listed
from ..items import Item, Picture
from ..page import Page
from .chats import is_conversation, read_conversations
from .files import Found, check, here, of_user
from .pictures import TsvPictures
from .references import Referred
from .rows import Columns
from .tables import ArrowTable, JsonTable, ParquetTable, Row, Table, TsvTable

__all__ = ["Found", "find_data", "read_found", "read_items"]


def find_data(page: Page, data: Path | None = None) -> Found:
    """Where the data of `page` lies: `data`, a file or a folder, or $LMUData, the cache of the
    hub, or downloaded.

    Raises:
        OSError: it is nowhere; the message names the files wanted and where to put them.
        ValueError: a published file has another size or md5, or the page has no data.
    """
    if page.parts:
        raise ValueError(f"{page.name} has no items of its own; it combines other pages.")
    if data is not None:
        found = of_user(page, Path(data))
    elif (local := here(page)) is not None:
        found = local
    else:
        from .hub import fetch  # the network, only when it is needed

        found = fetch(page)
    check(found)
    return found


def read_items(page: Page, data: Path | None = None, *, limit: int | None = None) -> Iterator[Item]:
    """The items of `page`, one at a time; `limit` ends after so many.

    Raises:
        OSError, ValueError: as of `find_data` and `read_found`.
    """
    return read_found(page, find_data(page, data), limit=limit)


def read_found(page: Page, found: Found, *, limit: int | None = None) -> Iterator[Item]:
    """The items of files that were found.

    Raises:
        ValueError: a column or a value is missing, a picture cannot be read, two rows have one
            id, or the published file has another number of rows.
    """
    table = _table(found)
    if isinstance(table, JsonTable) and is_conversation(table.first):
        items = enumerate(read_conversations(table.path))
        yield from (item for number, item in items if limit is None or number < limit)
        return
    columns = Columns(page, found.source, table.columns, table.path.name, found.folders)
    if isinstance(table, ParquetTable) and not found.source.where:
        _check_count(table.path, page, found, table.count)  # before any work is done
    places: dict[str, str] = {}
    for number, row, pictures in _rows(table, columns, found):
        if limit is not None and len(places) >= limit:
            return
        item = columns.item(columns.cleaned(row), number, pictures)
        if item.id in places:
            raise ValueError(
                f"{row.place} and {places[item.id]} have the same id {item.id!r}; every row needs "
                "its own."
            )
        places[item.id] = row.place
        yield item
    if not places:
        raise ValueError(f"{table.path} has no rows for {page.name}.")
    _check_count(table.path, page, found, len(places))


def _check_count(path: Path, page: Page, found: Found, count: int) -> None:
    expected = found.source.rows
    if found.is_published and expected is not None and count != expected:
        raise ValueError(
            f"{path} has {count} rows for {page.name}; the published data has {expected}. It is "
            "of another version, or was cut off; download it again."
        )


def _table(found: Found) -> Table:
    file = found.files[0]
    if file.is_dir():
        return ArrowTable(file)
    if found.source.kind == "parquet" or file.suffix.lower() == ".parquet":
        return ParquetTable(list(found.files))
    return TsvTable(file) if file.suffix.lower() == ".tsv" else JsonTable(file)


def _rows(
    table: Table, columns: Columns, found: Found
) -> Iterator[tuple[int, Row, tuple[Picture, ...]]]:
    """Number, row and pictures of the rows that the page asks."""
    if isinstance(table, TsvTable):
        yield from _tsv_rows(table, columns, found)
        return
    rows = Referred(table, columns, found.folders)
    for number, row in enumerate(table, 1):
        if columns.keeps(row):
            pictures = [
                picture
                for name in columns.names("pictures", row.cells)
                for picture in rows.pictures(row, name)
            ]
            if not pictures and columns.needs_pictures:
                pictures = rows.pictures(row, "image_path")
            if not pictures and columns.needs_pictures:
                raise ValueError(f"{row.place} has no picture; expected one in every row.")
            yield number, row, tuple(pictures)


def _tsv_rows(
    table: TsvTable, columns: Columns, found: Found
) -> Iterator[tuple[int, Row, tuple[Picture, ...]]]:
    has_pictures = found.source.columns.get("pictures") != ""
    names = columns.of.get("pictures", ("image",))
    present = [name for name in (*names, "image_path") if name in table.columns]
    if has_pictures and not present:
        raise ValueError(
            f"{table.path} has no column {names[0]!r} or 'image_path'; it has "
            f"{listed(table.columns)}."
        )
    index = columns.of.get("id", ("index",))[0]
    pictures = TsvPictures(table, index, names, "image_path", found.folders)
    for offset, number, row in table.rows_from(table.start, 1):
        pictures.passed(offset, number, row)
        if columns.keeps(row):
            yield number, row, pictures.of(row) if has_pictures else ()
