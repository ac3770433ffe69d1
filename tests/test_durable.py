"""What has its name is on the disk: order of syncing and naming, as the system is told it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv import durable
from minicpmv.durable import put_in_place
from minicpmv.export import folders
from minicpmv.gguf.header import Outline
from minicpmv.gguf.types import TYPES
from minicpmv.gguf.writer import write_gguf


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Files and folders that were synced or named, in their order."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not say which file a descriptor is of")
    found: list[tuple[str, str]] = []

    def sync(descriptor: int) -> None:
        found.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    replace, rename = os.replace, Path.rename

    def replaced(old: Any, new: Any) -> None:
        found.append(("name", Path(new).name))
        replace(old, new)

    def renamed(old: Path, new: Path) -> Path:
        found.append(("name", new.name))
        return rename(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(Path, "rename", renamed)
    return found


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, told: list[tuple[str, str]]
) -> None:
    new = tmp_path / "a.new"
    new.write_text("x")
    put_in_place(new, tmp_path / "a")
    assert told == [("sync", "a.new"), ("name", "a"), ("sync", tmp_path.name)]


def test_a_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, told: list[tuple[str, str]]
) -> None:
    with folders.written_whole(tmp_path / "out", 1) as new:
        (new / "sub").mkdir()
        (new / "sub" / "a").write_text("x")
        (new / "b").write_text("x")
    before = told[: told.index(("name", "out"))]
    assert sorted(name for _, name in before) == ["a", "b", "out.unfinished", "sub"]
    assert told[-1] == ("sync", tmp_path.name)


def test_tensors_are_noted_as_whole_when_they_are_on_the_disk(
    tmp_path: Path, told: list[tuple[str, str]]
) -> None:
    outlines = [Outline(name, (2, 32), TYPES["F32"]) for name in ("a", "b")]

    def read(outline: Outline) -> np.ndarray:
        if outline.name == "b":
            raise KeyboardInterrupt
        return np.zeros((outline.rows, outline.row_bytes), np.uint8)

    with pytest.raises(KeyboardInterrupt):
        write_gguf(tmp_path / "x.gguf", {}, outlines, read)
    assert told[-2:] == [("sync", "x.gguf.part"), ("name", "x.gguf.part.json")]
    told.clear()
    write_gguf(tmp_path / "x.gguf", {}, outlines, lambda outline: np.zeros((2, 128), np.uint8))
    named = told.index(("name", "x.gguf"))
    assert told[named - 1] == ("sync", "x.gguf.part")


def test_what_the_disk_refuses_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "sync", refuse)
    (tmp_path / "a.new").write_text("x")
    with pytest.raises(OSError, match="Input/output"):
        put_in_place(tmp_path / "a.new", tmp_path / "a")
    assert not (tmp_path / "a").exists()
