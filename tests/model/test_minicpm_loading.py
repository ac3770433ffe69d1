"""MiniCPM text checkpoints as released: what is read, what is written back, what is refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import (
    MiniCPMForCausalLM,
    MiniCPMForSequenceClassification,
    MiniCPMModel,
)

from ..helpers.text_models import NAMES, Recorded


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """A test that asks for it runs for every release."""
    return Recorded(request.param).checkpoint


def test_config_means_what_the_released_file_leaves_unsaid():
    config = MiniCPMConfig.from_pretrained(Recorded("2b").checkpoint)
    assert config.tie_word_embeddings
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert config.logits_scaling == 72 / 8
    assert config.residual_scale == 1.4 / 3**0.5
    long = MiniCPMConfig.from_pretrained(Recorded("2b-128k").checkpoint)
    assert not long.tie_word_embeddings
    assert long.rope_parameters["rope_type"] == "dynamic"
    assert long.rope_parameters["factor"] == 4
    assert long.rope_parameters["rope_theta"] == 1e6


def read_config(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "config.json").read_text())
    content.pop("auto_map", None)  # it names code that a saved folder does not hold
    return content


def test_released_config_is_written_back(checkpoint, tmp_path):
    released = read_config(checkpoint)
    AutoConfig.from_pretrained(checkpoint).save_pretrained(tmp_path)
    assert read_config(tmp_path) == released | {"model_type": "minicpm"}
    MiniCPMForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path)
    assert read_config(tmp_path) == released | {"model_type": "minicpm"}


def test_saved_config_has_the_changes_made(tmp_path):
    released = read_config(Recorded("2b").checkpoint)
    config = AutoConfig.from_pretrained(Recorded("2b").checkpoint, max_position_embeddings=16)
    config.rope_parameters |= {"rope_type": "linear", "factor": 2.0}
    config.save_pretrained(tmp_path)
    assert read_config(tmp_path) == released | {
        "model_type": "minicpm",
        "max_position_embeddings": 16,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters | {
        "type": "linear"
    }


def test_new_config_is_written_in_released_words(tmp_path):
    scaling = {"type": "dynamic", "factor": 4.0}
    config = MiniCPMConfig(rope_scaling=scaling, rope_theta=1e6, scale_emb=12)
    assert scaling == {"type": "dynamic", "factor": 4.0}
    config.save_pretrained(tmp_path)
    written = read_config(tmp_path)
    assert written["rope_scaling"] == scaling
    assert written["rope_theta"] == 1e6
    assert "rope_parameters" not in written
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict() | {
        "_name_or_path": str(tmp_path)
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": None},
        {"rope_scaling": None, "rope_theta": 4129032.258},
        {"rope_theta": 5e5},
    ],
)
def test_rotation_is_what_was_asked_for_however_it_was(fields, tmp_path):
    folder = Recorded("2b-128k").checkpoint
    (tmp_path / "config.json").write_text(json.dumps(read_config(folder) | fields))
    in_file = AutoConfig.from_pretrained(tmp_path)
    assigned = AutoConfig.from_pretrained(folder)
    for name, value in fields.items():
        setattr(assigned, name, value)
    for config in (assigned, AutoConfig.from_pretrained(folder, **fields)):
        assert config.rope_parameters == in_file.rope_parameters
        assert config.rope_theta == in_file.rope_theta
        assert config.to_released_dict() == in_file.to_released_dict()
    assert MiniCPMForCausalLM.from_pretrained(folder, **fields).config.rope_parameters == (
        in_file.rope_parameters
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be at least 1"),
        ({"num_attention_heads": 5}, "must be a multiple of num_attention_heads 5"),
        ({"num_key_value_heads": 5}, "of num_key_value_heads 5"),
        ({"num_experts": 2, "num_experts_per_tok": 3}, "it must be from 1 to 2"),
        ({"rope_scaling": {"type": "mixed", "factor": 2.0}}, "of type 'mixed', which is not known"),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, "expected a number above 1"),
        ({"hidden_act": "fatrelu"}, "hidden_act 'fatrelu' is not known"),
    ],
)
def test_numbers_that_do_not_go_together_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MiniCPMConfig(**fields)


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_auto_classes_are_ours(checkpoint, trust_remote_code):
    how = {"trust_remote_code": trust_remote_code}
    assert type(AutoConfig.from_pretrained(checkpoint, **how)) is MiniCPMConfig
    assert type(AutoModel.from_pretrained(checkpoint, **how)) is MiniCPMModel
    assert type(AutoModelForCausalLM.from_pretrained(checkpoint, **how)) is MiniCPMForCausalLM
    classifier = AutoModelForSequenceClassification.from_pretrained(checkpoint, **how)
    assert type(classifier) is MiniCPMForSequenceClassification
    assert isinstance(AutoTokenizer.from_pretrained(checkpoint, **how), PreTrainedTokenizerFast)


@pytest.mark.parametrize("fields", [{}, {"architectures": ["LlamaForCausalLM"]}])
def test_files_of_other_models_stay_as_they_are(fields, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert "model_type" not in PreTrainedConfig.get_config_dict(tmp_path)[0]
    with pytest.raises(ValueError, match="Should have a `model_type` key"):
        AutoConfig.from_pretrained(tmp_path)


def test_saved_tokenizer_gives_the_same_ids(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.save_pretrained(tmp_path)
    AutoConfig.from_pretrained(checkpoint).save_pretrained(tmp_path)
    text = "  <用户>two  spaces <AI>"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids


def pickled(folder: Path, content: Any) -> Path:
    """A checkpoint of 2B whose weights are a pickle of `content`."""
    shutil.copy(Recorded("2b").checkpoint / "config.json", folder)
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def weights() -> dict[str, torch.Tensor]:
    return load_file(Recorded("2b").checkpoint / "model.safetensors")


def test_pickled_weights_are_read_with_and_without_the_shared_head(tmp_path):
    expected = Recorded("2b").model.state_dict()
    table = weights()
    for content in (table, table | {"lm_head.weight": table["model.embed_tokens.weight"]}):
        model = AutoModelForCausalLM.from_pretrained(pickled(tmp_path, content))
        assert model.lm_head.weight is model.model.embed_tokens.weight
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name])


class Command:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch unpickled",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a dict of tensors"),
        ({"other": Path()}, r"holds pathlib\.\w+; a pickle is read only if it holds tensors alone"),
        ({"other": Command()}, r"holds \w+\.system; a pickle is read only if it holds tensors"),
    ],
)
def test_pickles_hold_tensors_alone(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin' {message}"):
        MiniCPMForCausalLM.from_pretrained(pickled(tmp_path, content))
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("length", [5, 1000])
def test_damaged_pickle_is_named(length, tmp_path):
    path = pickled(tmp_path, weights()) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OSError, match=r"pytorch_model\.bin' is damaged or not complete"):
        MiniCPMForCausalLM.from_pretrained(tmp_path)


def test_wrong_tensors_are_named(tmp_path):
    tensors = weights()
    del tensors["model.norm.weight"]
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"1 missing: model\.norm\.weight; 1 of another shape: "):
        MiniCPMForCausalLM.from_pretrained(pickled(tmp_path, tensors))


def test_another_number_of_labels_is_asked_for_in_words(tmp_path):
    checkpoint = Recorded("2b").checkpoint
    model = MiniCPMForSequenceClassification.from_pretrained(checkpoint, num_labels=3)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.score.weight, model.score.weight)
    with pytest.raises(ValueError, match=r"score\.weight \(3, 72\), expected \(5, 72\)"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    fresh = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True
    )
    assert fresh.score.out_features == 5


def test_damaged_tokenizer_is_named(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(Recorded("2b").checkpoint, folder, copy_function=shutil.copyfile)
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"tokenizer\.json of .* is damaged \(EOF .* Download it"):
        AutoTokenizer.from_pretrained(folder)
    file.unlink()
    (folder / "tokenizer.model").unlink()
    with pytest.raises(OSError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        AutoTokenizer.from_pretrained(folder)


def test_rotary_buffers_in_old_files_are_not_needed(tmp_path):
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    MiniCPMForCausalLM.from_pretrained(pickled(tmp_path, weights() | buffers))


def test_revisions_of_a_repository(tmp_path, monkeypatch):
    """The intermediate checkpoints of MiniCPM-2B-history are revisions of one repository."""
    # Where PEFT is installed, transformers asks the Hub for an adapter, local_files_only or not.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--openbmb--MiniCPM-2B-history"
    for number, revision in enumerate(["main", "step_1"]):
        commit = str(number) * 40
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        shutil.copy(Recorded("2b").checkpoint / "config.json", snapshot)
        tensors = weights() | {"model.norm.weight": torch.full((72,), float(number))}
        save_file(tensors, snapshot / "model.safetensors", metadata={"format": "pt"})
    for number, how in enumerate([{}, {"revision": "step_1"}]):
        model = AutoModelForCausalLM.from_pretrained(
            "openbmb/MiniCPM-2B-history", cache_dir=tmp_path, local_files_only=True, **how
        )
        assert model.model.norm.weight[0] == number
