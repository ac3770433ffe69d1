"""Rows written as parquet."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .table_rows import arrow_library

_BATCH = 500


def write_parquet(rows: Callable[[], Iterator[dict[str, Any]]], path: Path) -> None:
    """Write rows as one table.

    Args:
        rows: gives them, twice: once for the types of the columns.
        path: of the file.

    Raises:
        ValueError: a column has values of several types.
    """
    pyarrow = arrow_library()
    try:
        schema = _schema(pyarrow, rows())
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for batch in _batches(rows()):
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
    except (
        pyarrow.ArrowInvalid,
        pyarrow.ArrowTypeError,
        pyarrow.ArrowNotImplementedError,
    ) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"The rows are no table, since a column has values of several types ({first}). Write "
            ".json or .jsonl."
        ) from None


def _schema(pyarrow: Any, rows: Iterator[dict[str, Any]]) -> Any:
    schema = pyarrow.schema([])
    for batch in _batches(rows):
        names = dict.fromkeys(name for row in batch for name in row)
        columns = {name: pyarrow.array([row.get(name) for row in batch]) for name in names}
        found = pyarrow.schema([(name, column.type) for name, column in columns.items()])
        schema = pyarrow.unify_schemas([schema, found], promote_options="permissive")
    kind = schema.field("image").type if "image" in schema.names else None
    if kind is not None and pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        place = schema.get_field_index("image")
        schema = schema.set(place, pyarrow.field("image", image))
    return schema


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch
