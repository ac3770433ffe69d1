"""A file of rows to examples on disk: every row is checked and encoded, once.

Pictures are decoded by threads, ahead of the row that is encoded, and rows keep their order. No
list of all rows is held. The same file with the same settings is not prepared again.
"""

import contextvars
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..export.folders import write_json, written_whole
from .encode import EncodeSettings, Example, encode_conversation, encode_preference
from .faults import DataError, Fault
from .messages import Conversation, Picture, Preference
from .pictures import Looked, PictureReader, effective
from .report import Report
from .storage import Prepared, PreparedWriter

if TYPE_CHECKING:
    from .files import Rows

__all__ = ["Prepared", "prepare"]

FORMAT = 1  # of the folder
_AHEAD = 8  # rows per thread whose pictures are being decoded


def prepare(
    rows: "Rows",
    processor: Any,
    settings: EncodeSettings,
    folder: str | Path | None,
    *,
    skip_bad_rows: bool = False,
    num_threads: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> tuple[Prepared | None, Report]:
    """Check and encode every row of a file.

    Args:
        folder: where the examples are written, or found where the same file was prepared before;
            None: only the report is made, and faults are in it.
        skip_bad_rows: leave rows with faults out; the report counts them.
        num_threads: decode pictures; 0: as many as there are cores, at most 8.
        on_progress: called with the number of rows done, and of all.
        on_fault: called with each fault when it is found.

    Returns:
        The examples, None without a folder, and what the file holds.

    Raises:
        DataError: rows have faults, found when the whole file was read.
        ValueError: no row is left.
        OSError: the file cannot be read, or the disk is full.
    """
    key = _key(rows, processor, settings)
    if folder is not None:
        found = _found(Path(folder), key, skip_bad_rows)
        if found is not None:
            return found
    report = Report(preferences=rows.is_preference, max_length=settings.max_length)
    with ExitStack() as stack:
        unfinished = None
        if folder is not None:
            unfinished = stack.enter_context(written_whole(Path(folder)))
        writer = None if unfinished is None else PreparedWriter(unfinished)
        distinct: set[bytes] = set()
        try:
            total = rows.count() if on_progress is not None else 0
            for row, looked in _with_looks(rows, settings, num_threads):
                report.rows += 1
                examples, faults = _encoded(row, processor, settings, _Looks(looked))
                for fault in faults:
                    report.add_fault(fault)
                    if on_fault is not None:
                        on_fault(fault)
                if examples:
                    report.add(row.row, examples)
                    distinct.update(_cuts(examples))
                    if writer is not None:
                        for example in examples:
                            writer.add(example)
                elif skip_bad_rows:
                    report.skipped_rows += 1
                if on_progress is not None:
                    on_progress(report.rows, total)
        finally:
            if writer is not None:
                writer.close()
        report.distinct_pictures = len(distinct)
        report.finish()
        if unfinished is None:
            return None, report
        assert folder is not None
        if report.num_faults and not skip_bad_rows:
            raise DataError(report.all_faults[:20], report.num_faults)
        if not report.examples:
            raise ValueError(f"{rows.path} holds no row that can be trained on.")
        about = {
            "key": key,
            "is_preference": rows.is_preference,
            "examples": report.examples,
            "report": report.as_dict(),
        }
        write_json(unfinished / "prepared.json", about)
    return Prepared(folder), report


class _Looks(PictureReader):
    """The pictures of one row, in their order, as often as they are asked for."""

    def __init__(self, futures: Sequence["Future[Looked]"]) -> None:
        super().__init__()
        self._futures = futures
        self._next = 0

    def look(self, picture: Picture) -> Looked:
        future = self._futures[self._next % len(self._futures)]
        self._next += 1
        return future.result()


def _encoded(
    row: Conversation | Preference | Fault,
    processor: Any,
    settings: EncodeSettings,
    reader: PictureReader,
) -> tuple[list[Example], list[Fault]]:
    """The examples of a row, or what is wrong with it."""
    if isinstance(row, Fault):
        return [], [row]
    try:
        if isinstance(row, Preference):
            return list(encode_preference(processor, row, settings, reader)), []
        return encode_conversation(processor, row, settings, reader), []
    except DataError as error:
        return [], list(error.faults)


def _with_looks(
    rows: "Rows", settings: EncodeSettings, num_threads: int
) -> Iterator[tuple[Conversation | Preference | Fault, list["Future[Looked]"]]]:
    """The rows with their pictures, which threads decode ahead."""
    count = num_threads or min(os.cpu_count() or 1, 8)
    reader = PictureReader()
    window: deque[tuple[Conversation | Preference | Fault, list[Future[Looked]]]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for row in rows:
                pictures = () if isinstance(row, Fault) else row.pictures
                futures = [
                    # The media policy in force here holds in the threads too.
                    pool.submit(
                        contextvars.copy_context().run,
                        reader.look,
                        effective(picture, num_frames=settings.num_frames, fps=settings.fps),
                    )
                    for picture in pictures
                ]
                window.append((row, futures))
                if len(window) > count * _AHEAD:
                    yield window.popleft()
            while window:
                yield window.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def _cuts(examples: Sequence[Example]) -> Iterator[bytes]:
    """A short name for each picture of a row with its cut."""
    for example in examples:
        for ref in example.pictures:
            name = ref.digest + repr(ref.target_sizes).encode()
            yield hashlib.blake2b(name, digest_size=12).digest()


def _found(
    folder: Path, key: dict[str, Any], skip_bad_rows: bool
) -> tuple[Prepared, Report] | None:
    """What an earlier call has written, if it would be the same now."""
    try:
        prepared = Prepared(folder)
    except (OSError, ValueError, KeyError):  # not there, or no folder of ours
        return None
    report = Report.from_dict(prepared.about["report"])
    if prepared.about["key"] != key or (report.skipped_rows and not skip_bad_rows):
        return None
    if prepared.picture_files_changed() is not None:
        return None
    return prepared, report


def _key(rows: "Rows", processor: Any, settings: EncodeSettings) -> dict[str, Any]:
    """What examples depend on; two equal keys give equal examples."""
    tokenizer = processor.tokenizer
    image_processor = getattr(processor, "image_processor", None)
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    images = None if image_processor is None else image_processor.to_dict()
    written = json.dumps(images, sort_keys=True, default=str)
    return {
        "format": FORMAT,
        "files": [_state_of(file) for file in rows.files],
        "reading": rows.reading,
        "settings": asdict(settings),
        "tokenizer_sha256": _sha256(tokenizer.backend_tokenizer.to_str()),
        "chat_template_sha256": _sha256(str(template)),
        "preprocessor_sha256": _sha256(written),
    }


def _state_of(file: Path) -> list[Any]:
    """Name, bytes and time of a file of a data set."""
    state = file.stat()
    return [str(file.resolve()), state.st_size, state.st_mtime_ns]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
