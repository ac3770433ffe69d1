"""The folder that a command writes a model to: it appears only when it is whole."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..durable import lock, sync, sync_all
from ..errors import ArgumentError, OutputExistsError


def check_out(out: Path, folder: Path, overwrite: bool) -> None:
    """Refuse a place where a model cannot be written, before any work.

    Args:
        folder: of the model that is read.

    Raises:
        OSError: there is something in the way.
        ArgumentError: it is the model's own folder, or holds it.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{str(out)!r} is a file; name a folder to write.")
    ours, theirs = out.resolve(), folder.resolve()
    if ours == theirs or ours in theirs.parents:
        raise ArgumentError(f"{str(out)!r} holds the model itself; choose another folder.")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise OutputExistsError.of(out, "is not empty")
        if not (out / "config.json").is_file():
            raise FileExistsError(
                f"{str(out)!r} holds files and no config.json, so it is no model to replace. "
                "Choose another folder."
            )


@contextmanager
def written_whole(out: Path, num_bytes: int = 0) -> Iterator[Path]:
    """A new folder to write into, which gets its name at the end of the block.

    Whatever ends the block early leaves nothing; what a process that was killed has left there is
    thrown away by the next.

    Raises:
        OSError: the disk has less room than `num_bytes`, or another process writes there.
    """
    was_there = _holds_files(out)
    unfinished = out.resolve().with_name(out.resolve().name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(unfinished, os.O_RDONLY)
    try:
        if not lock(descriptor, unfinished):
            raise OSError(
                f"{str(unfinished)!r} is being written by another process. Wait for it, or name "
                "another folder."
            )
        try:
            _empty(unfinished)
            free = shutil.disk_usage(unfinished).free
            if free < num_bytes:
                raise OSError(
                    f"{str(out)!r} needs {num_bytes / 1e9:.1f} GB; its disk has {free / 1e9:.1f} "
                    "GB free."
                )
            yield unfinished
            if _holds_files(out) and not was_there:
                raise FileExistsError(
                    f"{str(out)!r} was written by another process meanwhile. Name another folder."
                )
            _put_in_place(unfinished, out)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _put_in_place(unfinished: Path, out: Path) -> None:
    """Give the finished folder its name, instead of what had it, once it is on the disk."""
    sync_all(unfinished)
    out = out.resolve()
    old = out.with_name(out.name + ".replaced")
    if out.exists():
        if old.exists():
            shutil.rmtree(old)
        out.rename(old)
    try:
        unfinished.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)
    if old.exists():
        shutil.rmtree(old)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
