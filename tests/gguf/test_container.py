"""GGUF files: what is written is read, wrong ones are refused, killed ones are gone on with."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from minicpmv.gguf.container import GGUFFile, Outline, Typed, write_gguf
from minicpmv.gguf.reading.settings import check_language
from minicpmv.gguf.types import TYPES

METADATA = {
    "general.architecture": "qwen2",
    "general.file_type": 7,
    "a.float": 1e-6,
    "a.flag": True,
    "a.signed": Typed(-3, "i32"),
    "tokens": ["a", "ä", ""],
    "scores": [0.5, -1.0],
    "kinds": Typed([1, 2, 3], "i32"),
}
OUTLINES = [
    Outline("token_embd.weight", (3, 32), TYPES["F32"]),
    Outline("blk.0.attn_q.weight", (5, 32), TYPES["Q8_0"]),
    Outline("blk.0.experts.weight", (2, 3, 64), TYPES["F16"]),
]


def content(outline: Outline) -> np.ndarray:
    generator = np.random.default_rng(len(outline.name))
    return generator.integers(0, 255, (outline.rows, outline.row_bytes)).astype(np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_gguf(path, METADATA, OUTLINES, content)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    file = GGUFFile(path)
    found = {
        key: getattr(value, "tolist", lambda v=value: v)() for key, value in file.metadata.items()
    }
    expected = {key: getattr(value, "value", value) for key, value in METADATA.items()}
    assert found == expected | {"a.float": np.float32(1e-6)}
    assert file.types["a.signed"] == "i32"
    assert file.types["kinds"] == "[i32]"
    assert file.types["tokens"] == "[str]"
    assert list(file.tensors) == [outline.name for outline in OUTLINES]
    for outline in OUTLINES:
        info = file.info(outline.name)
        assert (info.shape, info.type, info.size) == (outline.shape, outline.type, outline.size)
        assert info.offset % 32 == 0
        assert np.array_equal(file.blocks(outline.name), content(outline))
    assert file.tensor("blk.0.experts.weight").shape == (2, 3, 64)
    assert list(path.parent.iterdir()) == [path]


def test_the_last_tensor_is_padded(path: Path) -> None:
    assert path.stat().st_size % 32 == 0


def test_pieces_are_written_one_behind_the_other(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    write_gguf(other, METADATA, OUTLINES, lambda each: np.split(content(each), [1, 2]))
    assert other.read_bytes() == path.read_bytes()


def test_alignment_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "aligned.gguf"
    write_gguf(path, METADATA | {"general.alignment": 128}, OUTLINES, content)
    file = GGUFFile(path)
    assert all(info.offset % 128 == 0 for info in file.tensors.values())
    assert np.array_equal(file.blocks(OUTLINES[2].name), content(OUTLINES[2]))


def test_every_cut_is_refused_in_one_line(path: Path) -> None:
    whole = path.read_bytes()
    for size in [*range(0, len(whole) - 32, 7), len(whole) - 33]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model.gguf' is (damaged or not|no GGUF)"):
            GGUFFile(path)


@pytest.mark.parametrize(
    ("start", "data", "message"),
    [
        (0, b"PK\3\4", r"is no GGUF file: it begins with b'PK"),
        (4, struct.pack("<I", 1), "is GGUF version 1; versions 2 and 3"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 1 << 62), "4,611,686,018,427,387,904 tensors, more than fit"),
        (16, struct.pack("<Q", 1 << 40), "pairs, more than fit"),
        (24, struct.pack("<Q", 1 << 63), "ends after .* in the middle of its header"),
    ],
)
def test_lies_in_the_header_are_refused(path: Path, start: int, data: bytes, message: str) -> None:
    whole = bytearray(path.read_bytes())
    whole[start : start + len(data)] = data
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=message):
        GGUFFile(path)


def test_a_type_that_is_not_known_is_named(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    place = whole.index(b"blk.0.attn_q.weight") + 19 + 4 + 16
    whole[place : place + 4] = struct.pack("<i", 16)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"'blk.0.attn_q.weight' in ggml's type 16; F32, F16"):
        GGUFFile(path)


def test_names_and_values_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for metadata, outlines, message in (
        ({"a": None}, OUTLINES, "'a' cannot be written: it is a NoneType"),
        ({"a": -1}, OUTLINES, "'a' cannot be written"),
        ({"a": [1, "b"]}, OUTLINES, "several kinds"),
        ({}, [OUTLINES[0], OUTLINES[0]], "would be written 2 times"),
        ({}, [Outline("n" * 64, (1, 32), TYPES["F32"])], "must have 1 to 63 bytes"),
        ({}, [Outline("n", (1, 33), TYPES["Q8_0"])], "rows of 33 values"),
    ):
        with pytest.raises(ValueError, match=message):
            write_gguf(path, metadata, outlines, content)
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with pytest.raises(ValueError, match="expected uint8 rows of 128 bytes"):
        write_gguf(path, METADATA, OUTLINES, lambda each: content(each)[:, 1:])
    with pytest.raises(ValueError, match="got 2 rows, expected 3"):
        write_gguf(path, METADATA, OUTLINES, lambda each: content(each)[:-1])
    assert not path.exists()


class Killed(BaseException):
    pass


def test_a_killed_run_is_gone_on_with(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    asked: list[str] = []

    def dying(outline: Outline) -> Iterator[np.ndarray]:
        asked.append(outline.name)
        blocks = content(outline)
        yield blocks[:1]
        if outline == OUTLINES[1]:
            raise Killed
        yield blocks[1:]

    with pytest.raises(Killed):
        write_gguf(again, METADATA, OUTLINES, dying, sources="a")
    assert not again.exists()

    def noted(outline: Outline) -> np.ndarray:
        asked.append(outline.name)
        return content(outline)

    asked.clear()
    write_gguf(again, METADATA, OUTLINES, noted, sources="a")
    assert asked == [outline.name for outline in OUTLINES[1:]]
    assert again.read_bytes() == path.read_bytes()
    assert sorted(tmp_path.iterdir()) == [again, path]


def test_what_was_made_of_other_sources_is_not_gone_on_with(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"

    def dying(outline: Outline) -> np.ndarray:
        if outline == OUTLINES[2]:
            raise Killed
        return np.zeros((outline.rows, outline.row_bytes), np.uint8)

    with pytest.raises(Killed):
        write_gguf(again, METADATA, OUTLINES, dying, sources="a")
    write_gguf(again, METADATA, OUTLINES, content, sources="b")
    assert again.read_bytes() == path.read_bytes()


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    again = tmp_path / "again.gguf"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]))
        with pytest.raises(OSError, match=r"again.gguf' needs .* 'again.gguf.part' stays"):
            write_gguf(again, METADATA, OUTLINES, content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    write_gguf(again, METADATA, OUTLINES, content)
    assert again.read_bytes() == path.read_bytes()


def test_too_small_a_disk_is_known_before(tmp_path: Path) -> None:
    huge = Outline("n", (1 << 40, 32), TYPES["F32"])
    with pytest.raises(OSError, match=r"x.gguf' needs 140737.49 GB more; its disk has"):
        write_gguf(tmp_path / "x.gguf", {}, [huge], content)
    assert list(tmp_path.iterdir()) == []


def test_overlapping_tensors_are_refused(path: Path) -> None:
    data = path.read_bytes()
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8 + 4
    path.write_bytes(data[:at] + struct.pack("<Q", 0) + data[at + 8 :])
    with pytest.raises(ValueError, match=r"'blk\.0\.attn_q\.weight' at byte .*, within 'tok"):
        GGUFFile(path)


def test_what_a_file_says_at_length_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, {"general.architecture": "x" * 100_000}, OUTLINES, content)
    with pytest.raises(ValueError) as error:
        check_language(GGUFFile(path))
    assert len(str(error.value)) < 500


def test_a_file_that_another_process_writes_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"

    def meanwhile(outline: Outline) -> np.ndarray:
        with pytest.raises(OSError, match=r"model\.gguf\.part' is being written by another"):
            write_gguf(path, METADATA, OUTLINES, content)
        return content(outline)

    write_gguf(path, METADATA, OUTLINES, meanwhile)
    assert [*tmp_path.iterdir()] == [path]
    assert len(GGUFFile(path).tensors) == len(OUTLINES)


@pytest.mark.parametrize("change", ["cut", "written", "replaced"])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, change):
    path = tmp_path / "x.gguf"
    write_gguf(path, METADATA, OUTLINES, content)
    file, name = GGUFFile(path), OUTLINES[-1].name
    before = file.blocks(name).copy()
    if change == "replaced":  # the file that is mapped stays as it was
        (tmp_path / "y").write_bytes(b"other")
        (tmp_path / "y").replace(path)
        assert np.array_equal(file.blocks(name), before)
        return
    if change == "cut":
        os.truncate(path, 64)
    else:
        path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(OSError, match=r"x.gguf.* was changed while it was read: it had"):
        file.blocks(name)
