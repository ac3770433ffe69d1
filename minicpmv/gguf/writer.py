"""Writing a GGUF file tensor by tensor: in little memory, resumable, whole or not there.

The file grows as `NAME.part`; beside it `NAME.part.json` says how many tensors of which header and
which sources are whole. A second run with the same header and sources goes on behind them.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..durable import lock, put_in_place
from .header import Outline, alignment_of, encode_header, ends
from .values import Value

_SYNC_S = 2.0  # of work that a kill or a power cut may cost

# A tensor's bytes, uint8 (rows, row_bytes): all at once, or in pieces of whole rows in their order.
Blocks = np.ndarray | Iterable[np.ndarray]


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Value],
    outlines: Sequence[Outline],
    read: Callable[[Outline], Blocks],
    *,
    progress: bool = False,
    sources: str = "",
    on_whole: Callable[[Path], None] = lambda part: None,
) -> None:
    """Write a file; the tensors in the order of `outlines`.

    Args:
        read: gives a tensor's bytes, when its turn has come.
        progress: show a bar on stderr.
        sources: anything that tells the contents from those of another run (names, sizes and
            times of the files that are read). What another one left is not gone on with.
        on_whole: called with the file when it is whole, before it gets its name.

    Raises:
        ValueError: the metadata or an outline cannot be written, or `read` gave something else.
        OSError: the disk is full or refuses; what is there stays for the next run.
    """
    path = Path(path)
    header = encode_header(metadata, outlines)
    places = ends(len(header), outlines, alignment_of(metadata))
    part = path.with_name(path.name + ".part")
    journal = _Journal(_note_of(path), header, sources)
    with _locked(part) as file:
        _fill(path, file, journal, header, places, outlines, read, progress)
        on_whole(part)
        put_in_place(part, path)
    forget(path)


def forget(path: Path) -> None:
    """Remove the note beside a file that is whole; a run that was killed may have left it."""
    _note_of(path).unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


@contextmanager
def _locked(part: Path) -> Iterator[Any]:
    """The file, open, which no other process writes meanwhile.

    Raises:
        OSError: another one does.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if not lock(descriptor, part):
            raise OSError(
                f"{str(part)!r} is being written by another process. Wait for it, or write to "
                "another folder."
            )
        try:
            yield file
        except BaseException:
            if not os.fstat(file.fileno()).st_size:  # nothing to go on with
                part.unlink(missing_ok=True)
            raise


def _fill(
    path: Path,
    file: Any,
    journal: "_Journal",
    header: bytes,
    places: list[int],
    outlines: Sequence[Outline],
    read: Callable[[Outline], Blocks],
    progress: bool,
) -> None:
    """Write what is not there yet."""
    part = path.with_name(path.name + ".part")
    done = journal.done(part, places)
    start = places[done] if done is not None else 0
    _check_room(path, places[-1] - start)
    try:
        with _bar(places[-1], start, path.name, progress) as bar:
            file.seek(start)
            file.truncate()
            if done is None:
                _write(file, header, bar)
                journal.save(0)
            whole, synced = done or 0, time.monotonic()
            try:
                for outline in outlines[whole:]:
                    for piece in _pieces(outline, read(outline)):
                        _write(file, piece, bar)
                    _write(file, bytes(places[whole + 1] - file.tell()), bar)
                    whole += 1
                    if time.monotonic() - synced > _SYNC_S:
                        _note(file, journal, whole)
                        synced = time.monotonic()
            finally:
                _note(file, journal, whole)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        size = part.stat().st_size
        raise OSError(
            f"{str(path)!r} needs {places[-1] / 1e9:.2f} GB; writing stopped at "
            f"{size / 1e9:.2f} GB ({error.strerror}). {part.name!r} stays: make room and run the "
            "same again to go on, or delete it."
        ) from error


def _note(file: Any, journal: "_Journal", whole: int) -> None:
    """So many tensors are there: on the disk, too, if the power goes."""
    os.fsync(file.fileno())
    journal.save(whole)


class _Journal:
    """How far an earlier run with the same header and sources came."""

    def __init__(self, path: Path, header: bytes, sources: str):
        self.path = path
        self.key = hashlib.sha256(header + sources.encode()).hexdigest()

    def done(self, part: Path, places: list[int]) -> int | None:
        """Number of whole tensors in `part`; None when there is nothing to go on with."""
        try:
            noted = json.loads(self.path.read_text(encoding="utf-8"))
            size = part.stat().st_size
        except (OSError, ValueError):
            return None
        if not isinstance(noted, dict) or noted.get("key") != self.key:
            return None
        done = noted.get("done")
        if not isinstance(done, int) or not 0 <= done < len(places) or size < places[done]:
            return None
        return done

    def save(self, done: int) -> None:
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(json.dumps({"key": self.key, "done": done}), encoding="utf-8")
        os.replace(new, self.path)


def _pieces(outline: Outline, blocks: Blocks) -> Iterator[np.ndarray]:
    """What `read` gave, in pieces, and in the end exactly the outline's rows."""
    rows = 0
    for piece in [blocks] if isinstance(blocks, np.ndarray) else blocks:
        if piece.dtype != np.uint8 or piece.ndim != 2 or piece.shape[1] != outline.row_bytes:
            raise ValueError(
                f"{outline.name!r}: got {piece.dtype} {list(piece.shape)}, expected uint8 rows of "
                f"{outline.row_bytes} bytes."
            )
        rows += len(piece)
        yield piece
    if rows != outline.rows:
        raise ValueError(f"{outline.name!r}: got {rows} rows, expected {outline.rows}.")


def _write(file: Any, data: bytes | memoryview | np.ndarray, bar: Any) -> None:
    """All of it: without a buffer a write may take only a part, before a disk is full."""
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).data
    view = memoryview(data)
    while len(view):
        written = file.write(view[: 1 << 26])
        view = view[written:]
        bar.update(written)


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            f"{str(path)!r} needs {needed / 1e9:.2f} GB more; its disk has {free / 1e9:.2f} GB "
            "free."
        )


def _bar(total: int, start: int, name: str, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=start,
        desc=name,
        unit="B",
        unit_scale=True,
        disable=None if shown else True,
    )
