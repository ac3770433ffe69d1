"""A damaged file, or a pointer of git-lfs in its place, is named by whoever reads it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from minicpmv import AutoModel, AutoProcessor, AutoTokenizer, load
from minicpmv.checkpoint.files import parse_size
from minicpmv.export.convert import convert

from ..helpers.golden import CHECKPOINTS, GOLDEN

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


@pytest.mark.parametrize("name", [*FILES, "added_tokens.json", "special_tokens_map.json"])
@pytest.mark.parametrize("stands_there", ["a folder", "a link whose file is gone"])
def test_what_stands_in_place_of_a_file_is_named(
    folder: Path, name: str, stands_there: str
) -> None:
    (folder / name).unlink()
    if stands_there == "a folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(folder / "gone")
    with pytest.raises((OSError, ValueError), match=name) as told:
        load(folder, "cpu")
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    "names", [{}, {"a": ""}, {"a": ".."}, {"a": "/etc/hosts"}, {"a": "../model.safetensors"}]
)
def test_an_index_names_files_of_its_folder(folder: Path, names: dict[str, str]) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(ValueError, match=rf"{index.name}' is no index"):
        load(folder, "cpu")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", POINTER])
def test_the_auto_classes_of_transformers_name_a_damaged_file(folder: Path, content: str) -> None:
    named = {
        "config.json": ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoModelForCausalLM"),
        "tokenizer_config.json": ("AutoTokenizer", "AutoProcessor"),
        "preprocessor_config.json": ("AutoProcessor",),
    }
    for name, classes in named.items():
        whole = (folder / name).read_text()
        (folder / name).write_text(content)
        for auto_class in classes:
            with pytest.raises((OSError, ValueError), match=name) as told:
                getattr(transformers, auto_class).from_pretrained(folder)
            assert len(str(told.value).splitlines()) == 1
            assert content != POINTER or "git-lfs" in str(told.value)
        (folder / name).write_text(whole)


def test_a_tokenizer_without_its_settings_is_an_error_everywhere(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    for loader in (
        AutoTokenizer,
        AutoProcessor,
        transformers.AutoTokenizer,
        transformers.AutoProcessor,
    ):
        with pytest.raises(OSError, match=r"tokenizer_config\.json"):
            loader.from_pretrained(folder)


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


@pytest.mark.parametrize(
    ("field", "value"),
    [("suppress_tokens", 5), ("bad_words_ids", [1]), ("guidance_scale", "x"), ("temperature", 0)],
)
def test_a_setting_that_cannot_be_is_named(folder: Path, field: str, value: object) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=rf"generation_config\.json' says {field}"):
        load(folder, "cpu")


def test_a_tag_is_no_word(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"im_start": "x"}))
    with pytest.raises(ValueError, match=r"preprocessor_config\.json' says im_start 'x'"):
        load(folder, "cpu")


@pytest.mark.parametrize("content", [{"llm.lm_head.weight": 1.0}, {1: torch.zeros(1)}])
def test_a_pickle_of_other_things_is_refused(folder: Path, content: dict) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin' holds a .* expected a dict of"):
        load(folder, "cpu")


def test_a_vocabulary_without_the_places_of_its_tags_is_of_another_model(tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINTS["1.0"], tmp_path / "model")
    shutil.copy(GOLDEN / "minicpm-1b" / "ckpt" / "tokenizer.model", folder)
    with pytest.raises(ValueError, match="its vocabulary is that of another model"):
        load(folder, "cpu")
