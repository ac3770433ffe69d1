"""A folder that is written appears when it is whole, and costs nobody what they had."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minicpmv.export.folders import written_whole


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(out: Path, then: Callable[[], Any]) -> None:
    """A folder with one file; `then` is called before the end, and raised if it is an error."""
    with written_whole(out) as new:
        (new / "after").touch()
        found = then()
        if isinstance(found, BaseException):
            raise found


def test_the_folder_takes_the_place_of_the_old_one_and_of_nothing_else(tmp_path: Path) -> None:
    for name in ("out", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "before").touch()
    with written_whole(tmp_path / "out") as new:
        (new / "after").touch()
        assert names(tmp_path / "out") == ["before"]
    assert names(tmp_path) == ["out", "out.old", "out.old/before", "out/after"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "before").touch()
    with pytest.raises(error):
        write(tmp_path / "out", error)
    assert names(tmp_path) == ["out", "out/before"]


def test_the_old_folder_stays_where_the_new_one_cannot_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "before").touch()
    rename = Path.rename

    def refused(old: Path, new: Path) -> Path:
        if old.name == "out.unfinished":
            raise PermissionError("no")
        return rename(old, new)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        write(tmp_path / "out", lambda: None)
    assert names(tmp_path) == ["out", "out/before"]


def test_what_a_killed_process_left_is_thrown_away(tmp_path: Path) -> None:
    left = tmp_path / "out.unfinished"
    (left / "sub").mkdir(parents=True)
    (left / "sub" / "a").touch()
    (left / "b").touch()
    with written_whole(tmp_path / "out") as new:
        assert names(new) == []
    assert names(tmp_path) == ["out"]


def test_two_at_a_time_do_not_mix(tmp_path: Path) -> None:
    with written_whole(tmp_path / "out") as new:
        (new / "first").touch()
        with (
            pytest.raises(OSError, match=r"out.unfinished.*written by another process"),
            written_whole(tmp_path / "out"),
        ):
            pytest.fail("it was let in")
    assert names(tmp_path) == ["out", "out/first"]


def test_what_another_process_wrote_meanwhile_stays(tmp_path: Path) -> None:
    def meanwhile() -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()

    with pytest.raises(FileExistsError, match="by another process meanwhile"):
        write(tmp_path / "out", meanwhile)
    assert names(tmp_path) == ["out", "out/theirs"]


def test_a_full_disk_is_told_before_any_work(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"needs \d+\.\d GB; its disk has"),
        written_whole(tmp_path / "out", 1 << 60),
    ):
        pytest.fail("it was let in")
    assert names(tmp_path) == []
