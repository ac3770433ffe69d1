"""Checkpoints in and out: strict, in the released layout, in pieces, in other precisions."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from minicpmv.model.modeling import (
    MiniCPMVForConditionalGeneration,
    MiniCPMVModel,
    OmniLMMForConditionalGeneration,
    OmniLMMModel,
)

from ..helpers.golden import CHECKPOINTS, Golden, small_case
from ..helpers.tiny import tiny_batch, tiny_model


def copied(version, tmp_path, change):
    """A copy of the released-layout checkpoint, with `change(tensors)` applied to its weights."""
    folder = tmp_path / "model"
    shutil.copytree(CHECKPOINTS[version], folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tensors_of(folder):
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def released(tensors, end):
    """The one name that ends so."""
    (name,) = (name for name in tensors if name.endswith(end))
    return name


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


# Strict loading


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop(released(tensors, "ln_q.weight")),
            r"not those of its config: 1 missing: (model\.)?resampler\.ln_q\.weight\. Download",
        ),
        (
            lambda tensors: tensors.update(
                {released(tensors, "layers.1.mlp.up_proj.weight") + "_scale": torch.ones(1)}
            ),
            r"1 unexpected: (llm\.)?model\.layers\.1\.mlp\.up_proj\.weight_scale\.",
        ),
        (
            lambda tensors: tensors.update(
                {released(tensors, "resampler.query"): torch.ones(3, 256)}
            ),
            r"1 of another shape: (model\.)?resampler\.query \(3, 256\), expected \(\d+, 256\)\.",
        ),
        (
            lambda tensors: [
                tensors.pop(name)
                for name in list(tensors)
                if name.startswith(("vpm.", "model.vision_tower."))
            ],
            r"\d+ missing: (vpm|model\.vision_tower)\.\S+, .* and \d+ more\.",
        ),
    ],
    ids=["missing", "extra", "shape", "many"],
)
def test_wrong_tensors_are_named(version, tmp_path, capfd, change, message):
    folder = copied(version, tmp_path, change)
    with pytest.raises(ValueError, match=message):
        AutoModelForImageTextToText.from_pretrained(folder)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_truncated_file_is_named(version, tmp_path):
    folder = copied(version, tmp_path, lambda tensors: None)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100000])
    with pytest.raises(OSError, match=r"model\.safetensors' is damaged or not complete"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_absent_file_is_named(version, tmp_path):
    folder = copied(version, tmp_path, lambda tensors: None)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_who_asks_for_the_differences_gets_them(tmp_path):
    folder = copied("2.6", tmp_path, lambda tensors: tensors.pop("resampler.ln_q.weight"))
    _, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {"model.resampler.ln_q.weight"}


# There and back


def test_table_of_names_covers_the_checkpoint(version):
    model = Golden(version).model
    names = {model.released_name(name) for name in model.state_dict()}
    assert names == tensors_of(CHECKPOINTS[version]).keys()


def test_saved_checkpoint_is_the_released_one(version, tmp_path):
    Golden(version).model.save_pretrained(tmp_path)
    assert_same_tensors(tensors_of(tmp_path), tensors_of(CHECKPOINTS[version]))
    saved = json.loads((tmp_path / "config.json").read_text())
    released = json.loads((CHECKPOINTS[version] / "config.json").read_text())
    released.pop("auto_map", None)  # it names code that the saved folder does not hold
    assert saved == released


def test_shards_carry_released_names(version, tmp_path):
    model = Golden(version).model
    model.save_pretrained(tmp_path, max_shard_size="2MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    expected = tensors_of(CHECKPOINTS[version])
    assert_same_tensors(tensors_of(tmp_path), expected)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == expected.keys()
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert_same_tensors(again.state_dict(), model.state_dict())


def test_nested_checkpoint_loads_as_saved(version, tmp_path):
    model, inputs = tiny_model(version), tiny_batch([[(3, 4), (2, 5)], []])
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))


def test_tied_head_is_saved_once(version, tmp_path):
    model = tiny_model(version, text_config={"tie_word_embeddings": True})
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert "llm.lm_head.weight" not in tensors_of(tmp_path)
    inputs = tiny_batch([[]])
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))


def test_auto_model_is_headless(version):
    """AutoModel takes the headed checkpoint without its head, as in transformers' own models."""
    model = AutoModel.from_pretrained(CHECKPOINTS[version])
    assert type(model) is (OmniLMMModel if version == "omnilmm-12b" else MiniCPMVModel)
    headed = Golden(version).model
    assert_same_tensors(model.state_dict(), headed.model.state_dict())


def test_no_engine_is_told_to_skip_the_head(version):
    """Engines on transformers leave out what the headless class ignores, for the whole model."""
    for model in (AutoModel.from_pretrained(CHECKPOINTS[version]), Golden(version).model):
        patterns = model._keys_to_ignore_on_load_unexpected or ()
        assert not any(re.search(pattern, "lm_head.weight") for pattern in patterns)


def test_auto_classes_with_a_head(version):
    is_omnilmm = version == "omnilmm-12b"
    expected = OmniLMMForConditionalGeneration if is_omnilmm else MiniCPMVForConditionalGeneration
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText):
        model = auto_class.from_pretrained(CHECKPOINTS[version], trust_remote_code=True)
        assert type(model) is expected


# Where, and how precise


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto"], ids=str)
def test_device_map(version, device_map):
    inputs = small_case(version).inputs
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINTS[version], device_map=device_map)
    expected = logits_of(Golden(version).model, inputs)
    torch.testing.assert_close(logits_of(model, inputs), expected)


def test_weights_may_stay_on_disk(version, tmp_path):
    case = small_case(version)
    device_map = {"model.vision_tower": "disk", "model.resampler": "disk", "lm_head": "disk"}
    device_map |= {"model.language_model": "cpu"}
    model = AutoModelForImageTextToText.from_pretrained(
        CHECKPOINTS[version], device_map=device_map, offload_folder=tmp_path
    )
    assert model.model.resampler.query.device.type == "meta"
    expected = logits_of(case.golden.model, case.inputs)
    torch.testing.assert_close(logits_of(model, case.inputs), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_close(version, dtype):
    case = small_case(version)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINTS[version], dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    found = logits_of(model, case.inputs).float()
    expected = logits_of(case.golden.model, case.inputs)
    error = (found - expected).norm() / expected.norm()
    assert error < (0.05 if dtype is torch.bfloat16 else 0.01)


def test_file_says_the_precision_that_was_saved(tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINTS["2.6"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
