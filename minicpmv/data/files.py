"""Files of rows: `open_rows` tells their format, and `Rows` reads them one by one."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import listed
from .faults import Fault
from .fields import RowError, shown
from .formats import Format, LlamaFactory, detect, format_of
from .formats.llama_factory import DATASET_INFO, choose_entry, is_dataset_info
from .json_rows import Broken, JsonRows
from .media_fields import MediaReader
from .messages import Conversation, Preference
from .table_rows import ArrowRows, ParquetRows

_LOOKED_AT = 20  # rows that tell the format


class _Source(Protocol):
    """Rows as they stand in a file, or Broken."""

    def __iter__(self) -> Iterator[Any]: ...
    def count(self) -> int: ...
    def row(self, n: int) -> Any: ...


class Rows:
    """The rows of a file in its order: conversations or preferences, and a Fault for a broken row.

    Args:
        path: of the file.
        source: its raw rows.
        reader: of their format.
        media: of its pictures.
    """

    def __init__(self, path: Path, source: _Source, reader: Format, media: MediaReader):
        self.path = path
        self.format = reader.name
        self.is_preference = reader.is_preference
        self.reader = reader
        self.media = media
        self._source = source

    def __iter__(self) -> Iterator[Conversation | Preference | Fault]:
        for n, raw in enumerate(self._source):
            yield self._read(raw, n)

    def count(self) -> int:
        """How many rows there are, broken ones too."""
        return self._source.count()

    @property
    def files(self) -> list[Path]:
        """The files that the rows stand in."""
        return list(getattr(self._source, "paths", [self.path]))

    @property
    def reading(self) -> str:
        """How the rows are read: format, its columns and tags, folder of pictures. Rows of the same
        files and the same reading are the same.
        """
        return f"{self.format} {vars(self.reader)} {self.media.folder}"

    def row(self, n: int) -> Conversation | Preference | Fault:
        """Row n, from 0.

        Raises:
            IndexError: there is none.
        """
        return self._read(self._source.row(n), n)

    def _read(self, raw: Any, n: int) -> Conversation | Preference | Fault:
        if isinstance(raw, Broken):
            return Fault(n, raw.field, "not_a_row", raw.message)
        if not isinstance(raw, Mapping):
            return Fault(n, "", "not_a_row", f"this is {shown(raw)}; expected an object")
        if not any(key in raw for key in self.reader.keys if key != "id"):
            found = listed(raw) or "no keys"
            known = ", ".join(key for key in self.reader.keys if key != "id")
            message = f"found {found}; the format {self.format} of this file reads {known}"
            return Fault(n, next(map(str, raw), ""), "not_a_row", message)
        try:
            return self.reader.read_row(raw, n, self.media)
        except RowError as error:
            return error.fault(n)


def open_rows(
    path: str | Path,
    *,
    format: str | None = None,
    image_folder: str | Path | None = None,
    split: str | None = None,
) -> Rows:
    """The rows of a file.

    Args:
        path: a JSON or JSONL file, a parquet file, a folder of parquet files or one that `datasets`
            saved, or a `dataset_info.json` of LLaMA-Factory, also as `FILE::entry`.
        format: a name of FORMATS; None: it is told from the first rows.
        image_folder: where relative paths of pictures begin; None: the folder of the file.
        split: of a folder with several.

    Raises:
        OSError: the file is not there or cannot be read.
        ValueError: it is in no known format.
        ModuleNotFoundError: a parquet or arrow file without pyarrow.
    """
    reader = None if format is None else format_of(format)
    name, _, entry = str(path).partition("::")
    file = Path(os.path.abspath(name))
    if not file.exists():
        raise FileNotFoundError(f"The data {name} are not there. Give a file or a folder of rows.")
    if not (file.is_file() or file.is_dir()):
        raise OSError(f"{name} is no plain file; rows are read more than once. Save them first.")
    info = _dataset_info(file)
    if info is not None and reader is not None and not isinstance(reader, LlamaFactory):
        info = None
    elif info is not None:
        info_path = file if file.name == DATASET_INFO else file / DATASET_INFO
        file_name, described = choose_entry(info, entry or None, info_path)
        file = info_path.parent / file_name
        reader = LlamaFactory(described)
        if not file.exists():
            raise FileNotFoundError(f"{file}, which {info_path} names, is not there.")
    elif entry:
        raise ValueError(
            f"{name} is no {DATASET_INFO} of LLaMA-Factory, so {entry!r} names nothing."
        )
    elif reader is None or isinstance(reader, LlamaFactory):
        reader = _described(file, reader)
    source = _source_of(file, split)
    folder = file if file.is_dir() else file.parent
    if image_folder is not None:
        folder = Path(os.path.abspath(image_folder))
        if not folder.is_dir():
            raise FileNotFoundError(f"The folder of pictures {image_folder} is not there.")
    is_open = reader is None or (isinstance(reader, LlamaFactory) and not reader.is_described)
    if is_open:
        first = list(itertools.islice(source, _LOOKED_AT))
        if not first:
            raise ValueError(f"{name} holds no rows.")
        if isinstance(reader, LlamaFactory):
            reader = reader.for_rows(first)
        else:
            try:
                reader = detect(first)
            except ValueError as error:
                if not any(isinstance(row, Mapping) for row in first) and _are_rows(first):
                    # All are faults anyway, and `detect` would hide them.
                    return Rows(file, source, format_of("official"), MediaReader(folder))
                raise ValueError(f"{name} has {_why_not(error, first)}.") from None
    assert reader is not None
    return Rows(file, source, reader, MediaReader(folder))


def _are_rows(first: list[Any]) -> bool:
    """Whether a row that is no JSON begins like one."""
    return any(isinstance(row, Broken) and row.is_object for row in first)


def _why_not(error: ValueError, first: list[Any]) -> str:
    """The message of `detect`, with the first row that is no JSON."""
    broken = next((row for row in first if isinstance(row, Broken)), None)
    return f"{error}; {broken.field}: {broken.message}" if broken else str(error)


def _source_of(path: Path, split: str | None) -> _Source:
    if path.is_dir():
        return _folder(path, split)
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if split is not None:
        raise ValueError(f"{path} is one file, so split {split!r} names nothing.")
    if is_parquet or path.suffix.lower() == ".parquet":
        return ParquetRows([path])
    return JsonRows(path)


def _folder(folder: Path, split: str | None) -> _Source:
    """The rows of a folder that `datasets` saved, or that holds parquet files."""
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return ArrowRows(folder / _chosen(split, splits, folder))
    if (folder / "state.json").exists():
        if split is not None:
            raise ValueError(f"{folder} is one split, so split {split!r} names nothing.")
        return ArrowRows(folder)
    files = sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise ValueError(
            f"{folder} holds no rows: no dataset_info.json of LLaMA-Factory, no folder saved by "
            "datasets, no parquet files. Name a file in it."
        )
    splits = list(dict.fromkeys(file.stem.partition("-")[0] for file in files))
    chosen = _chosen(split, splits, folder)
    return ParquetRows([file for file in files if file.stem.partition("-")[0] == chosen])


def _chosen(split: str | None, splits: list[str], folder: Path) -> str:
    if split is None and (len(splits) == 1 or "train" in splits):
        return splits[0] if len(splits) == 1 else "train"
    if split not in splits:
        raise ValueError(f"{folder} has the splits {', '.join(splits)}; name one (split: {split}).")
    return split


def _dataset_info(path: Path) -> Mapping[str, Any] | None:
    """The content of a dataset_info.json of LLaMA-Factory; None: the path is no such file."""
    file = path / DATASET_INFO if path.is_dir() else path
    if file.suffix != ".json" or not file.exists() or file.stat().st_size > 1 << 24:
        return None
    if file.name != DATASET_INFO and not _begins_object(file):
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return value if is_dataset_info(value) else None


def _begins_object(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{"


def _described(path: Path, reader: Format | None) -> Format | None:
    """The format by the dataset_info.json beside a data file; `reader` where none speaks of it."""
    info = _dataset_info(path.parent) if not path.is_dir() else None
    names = [n for n, entry in (info or {}).items() if entry.get("file_name") == path.name]
    if info is None or len(names) != 1:
        return reader
    return LlamaFactory(choose_entry(info, names[0], path.parent / DATASET_INFO)[1])
