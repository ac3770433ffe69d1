"""Rows of one format written in another, with the promise that they read back as the same rows.

Every row is read back as it was written before it counts. What the other format cannot say is a
fault that names the row, the field and the formats that can.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, OutputExistsError
from .faults import DataError, Fault
from .fields import RowError
from .files import open_rows
from .formats import FORMATS, Format, LlamaFactory, format_of
from .formats.llama_factory import DATASET_INFO, is_dataset_info, written_info
from .media_fields import MediaReader, MediaWriter
from .messages import Conversation, Message, Part, Picture, Preference
from .table_rows import ParquetRows
from .tables import write_parquet

_KEPT_FAULTS = 100
SUFFIXES = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Args:
        out: the file that was written.
        num_rows: its rows.
        source_format: the format that was read.
        format: the format that was written.
        others: other files: pictures that were no files, dataset_info.json.
    """

    out: Path
    num_rows: int
    source_format: str
    format: str
    others: tuple[Path, ...] = ()


def convert(
    path: str | Path,
    out: str | Path,
    to: str,
    *,
    format: str | None = None,
    image_folder: str | Path | None = None,
    split: str | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Converted:
    """Write the rows of a file in another format.

    Paths of pictures are written relative to the folder of `out` where they lie in it, absolute
    else. Pictures that are no files, such as those inside of parquet, go to the folder OUT.images.
    Nothing is written if a row has a fault.

    Args:
        path: the rows; see `open_rows`, also for `format`, `image_folder` and `split`.
        out: a file that ends in .json (a list), .jsonl (one row a line) or .parquet.
        to: a name of FORMATS.
        overwrite: whether `out` may be there already.
        on_progress: called with the number of rows done.

    Raises:
        ArgumentError: `out` or `to` is none of these.
        DataError: rows that cannot be read, or not be said in the other format.
        OSError: a file cannot be read or written.
        ValueError: the rows are in no known format.
    """
    out = Path(os.path.abspath(out))
    writer = _writer(to, out, overwrite)
    rows = open_rows(path, format=format, image_folder=image_folder, split=split)
    if rows.path == out:
        raise ArgumentError(f"{out} is the file that is read; name another.")
    if rows.is_preference != writer.is_preference:
        fitting = [name for name, fmt in FORMATS.items() if fmt.is_preference == rows.is_preference]
        what = "preferences" if rows.is_preference else "conversations"
        raise ArgumentError(
            f"`to` {to} cannot hold {what}; formats that can: {', '.join(fitting)}."
        )
    if not out.parent.is_dir():
        raise FileNotFoundError(f"The folder {out.parent} is not there; make it first.")
    if isinstance(writer, LlamaFactory):
        _info_beside(out)
    media = MediaWriter(out)
    converting = _Converting(rows, writer, media, out, on_progress)
    part = out.with_name(f".{out.name}.part")
    try:
        if out.suffix == ".parquet":
            write_parquet(converting.as_tables, part)
            converting.check()
            _check_table(part, converting)
        else:
            _write_json(converting, part, as_list=out.suffix == ".json")
        converting.check()
        os.replace(part, out)
    except BaseException:
        part.unlink(missing_ok=True)
        media.take_back()
        raise
    others = list(media.created)
    if isinstance(writer, LlamaFactory):
        others.append(_describe(out, writer, converting.columns))
    return Converted(out, converting.num_rows, rows.format, to, tuple(others))


def written_row(
    row: Conversation | Preference, writer: Format, media: MediaWriter
) -> dict[str, Any]:
    """A row as the format writes it, with its other columns.

    Raises:
        RowError: the format cannot say it.
    """
    result = {**row.rest, **writer.write_row(row, media)}
    for name in row.rest:
        try:
            json.dumps(row.rest[name])
        except (TypeError, ValueError) as error:
            raise RowError(str(name), "wrong_type", f"this cannot be written: {error}") from None
    try:
        again = writer.read_row(result, row.row, MediaReader(media.folder))
    except RowError as error:
        if error.field.partition(".")[0].partition("[")[0] in row.rest:
            raise RowError(
                error.field,
                "unknown_field",
                f"the format {writer.name} gives this column a meaning: {error.message}",
            ) from None
        raise
    if (clash := next((name for name in row.rest if name not in again.rest), None)) is not None:
        raise RowError(
            str(clash),
            "unknown_field",
            f"the format {writer.name} has a column of this name for something else; rename it",
        )
    if _comparable(again) != _comparable(row):
        raise RowError(
            "messages", "wrong_type", f"in the format {writer.name} this row would read differently"
        )
    return result


class _Converting:
    """The rows as they are written; faults are collected on the way."""

    def __init__(
        self,
        rows: Any,
        writer: Format,
        media: MediaWriter,
        out: Path,
        on_progress: Callable[[int], None] | None,
    ):
        self.rows, self.writer, self.media = rows, writer, media
        self.out, self.on_progress = out, on_progress
        self.faults: list[Fault] = []
        self.num_faults = self.num_rows = 0
        self.columns: set[str] = set()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.faults, self.num_faults, self.num_rows = [], 0, 0
        for n, row in enumerate(self.rows):
            try:
                if isinstance(row, Fault):
                    self._add(row)
                    continue
                result = written_row(row, self.writer, self.media)
            except RowError as error:
                self._add(error.fault(n))
                continue
            finally:
                if self.on_progress is not None:
                    self.on_progress(n + 1)
            self.num_rows += 1
            self.columns.update(result)
            yield result

    def as_tables(self) -> Iterator[dict[str, Any]]:
        """The same for a table, where a column has one type."""
        for row in self:
            # Texts of the others may hold placeholders, which have no meaning in blocks.
            as_blocks = self.writer.name in ("hf", "openai", "trl")
            yield {key: _blocks(value) if as_blocks else value for key, value in row.items()}
        self.check()

    def check(self) -> None:
        """Raises DataError if there were faults."""
        if self.num_faults:
            command = f"minicpmv data check {self.rows.path} --model M"
            raise DataError(self.faults, self.num_faults, command)

    def _add(self, fault: Fault) -> None:
        self.num_faults += 1
        if len(self.faults) < _KEPT_FAULTS:
            self.faults.append(fault)


def _check_table(path: Path, converting: _Converting) -> None:
    """Read a table back: its columns have one type each, which may have changed a row.

    Raises:
        ValueError: a row reads differently.
    """
    media = MediaReader(converting.media.folder)
    for row, raw in zip(converting.rows, ParquetRows([path]), strict=True):
        try:
            again: Any = converting.writer.read_row(raw, row.row, media)
        except RowError as error:
            again = error.fault(row.row)
        if isinstance(again, Fault) or _without_nulls(again) != _without_nulls(row):
            raise ValueError(
                f"Row {row.row} would read differently from a table, whose columns have one type "
                "each. Write .json or .jsonl."
            )


def _without_nulls(row: Conversation | Preference) -> Any:
    """What of a row a table must keep; one fills columns and keys of others with nulls."""
    messages, *others = _comparable(row)
    return (messages, *others[:-1], _dense(json.loads(others[-1])))


def _dense(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _dense(item) for key, item in value.items() if item is not None}
    return [_dense(item) for item in value] if isinstance(value, list) else value


def _writer(to: str, out: Path, overwrite: bool) -> Format:
    if to not in FORMATS:
        raise ArgumentError(f"`to` {to!r} is no format; known are {', '.join(FORMATS)}.")
    if out.suffix not in SUFFIXES:
        raise ArgumentError(
            f"{out.name} ends in none of {', '.join(SUFFIXES)}; it says how rows are written."
        )
    if out.exists() and not overwrite:
        raise OutputExistsError.of(out)
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; name a file.")
    return format_of(to)


def _write_json(rows: _Converting, part: Path, *, as_list: bool) -> None:
    with part.open("w", encoding="utf-8", newline="\n") as file:
        before = "[\n" if as_list else ""
        for row in rows:
            file.write(before + _json(row))
            before = ",\n" if as_list else "\n"
        file.write(("\n]\n" if rows.num_rows else "[]\n") if as_list else "\n")


def _json(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a pair of surrogates, in another column
        return json.dumps(row)
    return text


def _blocks(value: Any) -> Any:
    """Messages with every content as blocks, since a column of a table has one type."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return value
    if not all("role" in item and "content" in item for item in value):
        return value
    return [
        {**item, "content": [{"type": "text", "text": item["content"]}]}
        if isinstance(item["content"], str)
        else item
        for item in value
    ]


def _info_beside(out: Path) -> dict[str, Any]:
    """The dataset_info.json beside a file, with room for an entry of its name."""
    path = out.parent / DATASET_INFO
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        info = None
    if not is_dataset_info(info):
        raise ValueError(
            f"{path} is no {DATASET_INFO} of LLaMA-Factory, so {out.name} could not be named "
            "there. Write into another folder."
        )
    file_name = info.get(out.stem, {}).get("file_name", out.name)
    if file_name != out.name or (out.stem in info and "file_name" not in info[out.stem]):
        raise ValueError(
            f"{path} has an entry {out.stem!r} for other data. Give {out.name} another name."
        )
    return dict(info)


def _describe(out: Path, writer: LlamaFactory, columns: set[str]) -> Path:
    """Add the file to the dataset_info.json beside it."""
    path, info = out.parent / DATASET_INFO, _info_beside(out)
    info[out.stem] = written_info(out.name, writer.entry, sorted(columns))
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(info, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def _comparable(row: Conversation | Preference) -> Any:
    """A row without what a conversion changes: where pictures lie."""
    rest = json.dumps(row.rest, sort_keys=True)
    if isinstance(row, Preference):
        return (_without_sources(row.prompt), row.chosen, row.rejected, row.id, rest)
    return (_without_sources(row.messages), row.id, rest)


def _without_sources(messages: tuple[Message, ...]) -> list[Message]:
    def without(part: Part) -> Part:
        return replace(part, source="") if isinstance(part, Picture) else part

    return [
        replace(message, parts=tuple(without(part) for part in message.parts))
        for message in messages
    ]
