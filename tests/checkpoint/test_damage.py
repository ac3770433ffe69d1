"""A damaged file, or a pointer of git-lfs in its place, is named by whoever reads it."""

import shutil
from pathlib import Path

import pytest

from minicpmv import AutoModel, AutoProcessor, AutoTokenizer, load
from minicpmv.checkpoint.files import parse_size
from minicpmv.export.convert import convert

from ..helpers.golden import CHECKPOINTS

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16202105\n"
FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "model.safetensors",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINTS["2.6"], tmp_path / "model"))


@pytest.mark.parametrize("name", FILES)
def test_a_pointer_is_called_what_it_is(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    with pytest.raises(
        OSError, match=rf"{name}' is a git-lfs pointer, .* 16,202,105 bytes"
    ) as told:
        load(folder, "cpu")
    assert len(str(told.value).splitlines()) == 1
    with pytest.raises(OSError, match=f"{name}' is a git-lfs pointer"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises((OSError, ValueError), match=name) as told:
        load(folder, "cpu")
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_loaders_of_processors_name_it_too(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    for loader in (AutoTokenizer, AutoProcessor):
        with pytest.raises((OSError, ValueError), match=name):
            loader.from_pretrained(folder)


def test_a_template_that_is_a_pointer_does_not_become_the_prompt(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(POINTER)
    with pytest.raises(OSError, match=r"chat_template\.jinja' is a git-lfs pointer"):
        load(folder, "cpu")


@pytest.mark.parametrize("size", ["abc", "0", 0, "-1GB", "2XB", "", "nan"])
def test_a_size_that_is_none_is_refused_before_any_work(folder: Path, size: str | int) -> None:
    with pytest.raises(ValueError, match="is no size; expected bytes above 0"):
        convert(folder, folder.parent / "out", "llama", max_shard_size=size)


def test_sizes() -> None:
    assert [parse_size(size) for size in ("2GB", "1.5 mb", 7, "1KiB", "10")] == [
        2_000_000_000,
        1_500_000,
        7,
        1024,
        10,
    ]
