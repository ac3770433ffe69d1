"""Rows of parquet files and of folders that `datasets` saved."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .json_rows import Broken

_BATCH = 64  # rows in memory, which may hold pictures


def arrow_library() -> Any:
    """pyarrow, with its parquet.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Parquet and arrow files need pyarrow: pip install "minicpmv[train]", or "[eval]"',
            name="pyarrow",
        ) from None
    return pyarrow


class ParquetRows:
    """The rows of parquet files, one file after the other.

    Args:
        paths: of the files.

    Raises:
        OSError: one cannot be opened.
        ValueError: one is no parquet file.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self._groups: list[tuple[Path, int, int]] = []  # file, row group, rows
        for path in self.paths:
            with _parquet(path) as file:
                metadata = file.metadata
                for group in range(metadata.num_row_groups):
                    self._groups.append((path, group, metadata.row_group(group).num_rows))

    def __iter__(self) -> Iterator[Any]:
        for path, group, count in self._groups:
            yield from _group_rows(path, group, count)

    def count(self) -> int:
        """How many rows there are."""
        return sum(count for _, _, count in self._groups)

    def row(self, n: int) -> Any:
        """Row n. Raises IndexError."""
        left = n
        for path, group, count in self._groups:
            if 0 <= left < count:
                return next(_skipped(_group_rows(path, group, count), left))
            left -= count
        raise IndexError(f"{self.paths[0]} has {self.count()} rows, and no row {n}")


class ArrowRows:
    """The rows of a folder that `Dataset.save_to_disk` wrote.

    Args:
        folder: with state.json.

    Raises:
        OSError: a file cannot be opened.
        ValueError: it is no such folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state.get("_indices_files"):
            raise ValueError(
                f"{folder} holds a selection of rows; call flatten_indices() before save_to_disk()."
            )
        files = state.get("_data_files") or []
        self.paths = [folder / file["filename"] for file in files]
        for path in self.paths:
            if not path.exists():
                raise FileNotFoundError(
                    f"{path}, which {folder / 'state.json'} names, is not there"
                )
        self._counts = [sum(batch.num_rows for batch in _batches(path)) for path in self.paths]

    def __iter__(self) -> Iterator[Any]:
        for path in self.paths:
            for batch in _batches(path):
                for start in range(0, batch.num_rows, _BATCH):
                    yield from _filled(batch.slice(start, _BATCH))

    def count(self) -> int:
        """How many rows there are."""
        return sum(self._counts)

    def row(self, n: int) -> Any:
        """Row n. Raises IndexError."""
        left = n
        for path in self.paths:
            for batch in _batches(path):
                if 0 <= left < batch.num_rows:
                    return _filled(batch.slice(left, 1))[0]
                left -= batch.num_rows
        raise IndexError(f"{self.folder} has {self.count()} rows, and no row {n}")


def _parquet(path: Path) -> Any:
    pyarrow = arrow_library()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no parquet file, or not a whole one: {first}") from None


def _group_rows(path: Path, group: int, count: int) -> Iterator[Any]:
    """The rows of one row group; broken from where it cannot be read."""
    done = 0
    with _parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group]):
                rows = _filled(batch)
                done += len(rows)
                yield from rows
        except (OSError, ValueError) as error:  # pyarrow's errors are of these
            first = str(error).partition("\n")[0]
            why = f"row group {group} of {path.name} cannot be read: {first}"
            for _ in range(count - done):
                yield Broken(why)


def _filled(batch: Any) -> list[dict[str, Any]]:
    """Rows without columns that are null: in a table, all rows have all columns."""
    return [
        {key: value for key, value in row.items() if value is not None} for row in batch.to_pylist()
    ]


def _batches(path: Path) -> Iterator[Any]:
    pyarrow = arrow_library()
    try:
        with pyarrow.memory_map(str(path)) as file:
            yield from pyarrow.ipc.open_stream(file)
    except pyarrow.ArrowInvalid as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no arrow file, or not a whole one: {first}") from None


def _skipped(rows: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        next(rows)
    return rows
