"""From a name to files: revisions, cache folders and tokens reach the hub; it is asked once."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from minicpmv import AutoModel, AutoTokenizer, load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.quantization.files import read_quantization

from ..helpers.golden import CHECKPOINTS

REPO = "openbmb/MiniCPM-V-2_6"
OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the hub with two revisions, whose tokenizers differ in one setting."""
    place = tmp_path / "hub" / "models--openbmb--MiniCPM-V-2_6"
    (place / "refs").mkdir(parents=True)
    for name, commit in (("old", OLD), ("main", NEW)):
        shutil.copytree(CHECKPOINTS["2.6"], place / "snapshots" / commit)
        (place / "refs" / name).write_text(commit)
    return tmp_path / "hub"


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("main", NEW), ("old", OLD)])
def test_without_a_network_the_revision_that_was_asked_for_is_found(
    cache: Path, unreachable: None, revision: str | None, commit: str
) -> None:
    found = Checkpoint.find("2.6", revision=revision, cache_dir=cache)
    assert Path(found.location).name == commit
    assert found.name == "2.6"
    model = AutoModel.from_pretrained(REPO, revision=revision, cache_dir=cache)
    assert Path(model.name_or_path).name == commit
    tokenizer = AutoTokenizer.from_pretrained(REPO, revision=revision, cache_dir=cache)
    assert commit in tokenizer.name_or_path


def test_load_takes_the_keywords_of_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("asked"))
    chat = load(REPO, "cpu", "float32", revision="old", cache_dir=cache, local_files_only=True)
    assert Path(chat.model.name_or_path).name == OLD
    with pytest.raises(OSError, match=r"local_files_only=True, but no copy of .* at revision 'x'"):
        load(REPO, revision="x", cache_dir=cache, local_files_only=True)
    with pytest.raises(ValueError, match="force_download=True has no effect"):
        load("nano", force_download=True)


def test_the_token_and_the_revision_reach_every_question(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def model_info(self: Any, name: str, **options: Any) -> Any:
        asked.append(options)
        files = [SimpleNamespace(rfilename="sub/config.json")]
        return SimpleNamespace(sha=OLD, siblings=files)

    def download(name: str, file: str, **options: Any) -> str:
        asked.append(options | {"file": file})
        return str(CHECKPOINTS["2.6"] / "config.json")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = Checkpoint.find(REPO, revision="old", token="secret", cache_dir="c", subfolder="sub")
    assert found.find_file("quantize_config.json") is None  # not in the list, so not asked for
    found.read_json("config.json")
    assert [options["token"] for options in asked] == ["secret", "secret"]
    assert [options["revision"] for options in asked] == ["old", OLD]
    assert (asked[1]["cache_dir"], asked[1]["subfolder"]) == ("c", "sub")


def test_a_connection_that_fails_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise LocalEntryNotFoundError("connection failed")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(OSError, match=r"quantize_config.json of 'some/model' cannot be fetched"):
        Checkpoint.at("some/model", {}).find_file("quantize_config.json")


def test_full_weights_ask_nothing_where_the_cache_knows_the_answer(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cache / "models--openbmb--MiniCPM-V-2_6" / ".no_exist" / NEW
    place.mkdir(parents=True)
    (place / "quantize_config.json").touch()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked"))
    config = AutoModel.from_pretrained(REPO, cache_dir=cache, local_files_only=True).config
    config._commit_hash = NEW
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert read_quantization(REPO, {"config": config, "cache_dir": cache}) is None


def test_variants_have_names_of_their_own(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS["2.6"], tmp_path / "model")
    folder = tmp_path / "model"
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    found = Checkpoint.find(folder, variant="fp16").weight_files()
    assert [path.name for path in found] == ["model.fp16.safetensors"]
