"""The folder that a command writes a model to: it appears only when it is whole."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..durable import sync, sync_all
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


def empty_folder_beside(out: Path, num_bytes: int) -> Path:
    """A new folder to work in. What a run that was killed left there is thrown away.

    Raises:
        OSError: the disk has less room than `num_bytes`.
    """
    unfinished = out.resolve().with_name(out.resolve().name + ".unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    free = shutil.disk_usage(unfinished).free
    if free < num_bytes:
        unfinished.rmdir()
        raise OSError(
            f"{str(out)!r} needs {num_bytes / 1e9:.1f} GB; its disk has {free / 1e9:.1f} GB free."
        )
    return unfinished


def put_in_place(unfinished: Path, out: Path) -> None:
    """Give the finished folder its name, instead of what had it, once it is on the disk."""
    sync_all(unfinished)
    out = out.resolve()
    old = out.with_name(out.name + ".old")
    if out.exists():
        if old.exists():
            shutil.rmtree(old)
        out.rename(old)
    unfinished.rename(out)
    sync(out.parent)
    if old.exists():
        shutil.rmtree(old)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
