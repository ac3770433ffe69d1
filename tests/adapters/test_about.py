"""What commands say of an adapter that is given for a model."""

import json
import shutil

import pytest

from minicpmv.adapters.folder import is_adapter
from minicpmv.cli import main
from minicpmv.train.sft.options import SftOptions
from minicpmv.train.sft.run import run
from minicpmv.version import VERSION

from ..helpers.micro import micro_checkpoint, weights_of, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("adapter")
    micro = micro_checkpoint(folder / "micro")
    out = folder / "out"
    options = SftOptions(
        model=str(micro), data=str(rows), output=str(out), lora=True, lora_r=4, lora_alpha=8.0,
        max_length=64, max_steps=1, samples=0, dtype="float32", device="cpu",
    )  # fmt: skip
    run(options)
    assert is_adapter(out)
    return out


def test_info_says_what_an_adapter_is(adapter, capsys):
    assert main(["info", str(adapter)]) == 0
    text = capsys.readouterr().out
    assert f"an adapter (LORA) of {adapter.parent / 'micro'}" in text
    assert "rank 4, alpha 8" in text
    assert "language adapters, resampler whole" in text
    assert f"minicpmv {VERSION}" in text
    assert main(["info", "--json", str(adapter)]) == 0
    about = json.loads(capsys.readouterr().out)
    sizes = {name: tensor.numel() for name, tensor in weights_of(adapter).items()}
    assert sum(about["parameters"].values()) == sum(sizes.values())
    assert about["parameters"]["low rank"] == sum(n for x, n in sizes.items() if "lora_" in x)


@pytest.mark.parametrize("command", [["quantize"], ["convert", "--to", "llama"]])
def test_commands_for_whole_models_say_to_merge(command, adapter, tmp_path, capsys):
    assert main([*command, str(adapter), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"Merge it into its model first: minicpmv merge {adapter} MERGED" in error
    assert len(error.strip().splitlines()) == 1


def test_data_check_compares_the_template_with_that_of_the_training(
    adapter, rows, tmp_path, capsys
):
    assert main(["data", "check", str(rows), "--model", str(adapter)]) == 0
    other = shutil.copytree(adapter, tmp_path / "other")
    path = other / "training_settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"chat_template_sha256": "0" * 64}))
    capsys.readouterr()
    assert main(["data", "check", str(rows), "--model", str(other)]) == 1
    error = capsys.readouterr().err
    assert f"{str(other)!r} was trained with another chat template" in error
