"""Released flat files and nested ones: read, kept, written back."""

import json

import pytest
from transformers import AutoConfig, LlamaConfig, Qwen2Config

from minicpmv.model.configuration import MiniCPMVConfig

from .conftest import CHECKPOINTS, tiny_config, tiny_model

TEXT_CLASSES = {"2.5": LlamaConfig, "2.6": Qwen2Config}


def released(version):
    return json.loads((CHECKPOINTS[version] / "config.json").read_text())


def test_flat_file_becomes_parts(version):
    config, file = AutoConfig.from_pretrained(CHECKPOINTS[version]), released(version)
    assert type(config) is MiniCPMVConfig
    assert type(config.text_config) is TEXT_CLASSES[version]
    assert config.text_config.hidden_size == file["hidden_size"]
    assert config.text_config.rope_parameters["rope_theta"] == file["rope_theta"]
    assert config.vision_config.hidden_size == file["vision_config"]["hidden_size"]
    assert config.num_queries == config.query_num == file["query_num"]
    assert config.version == version


def test_text_fields_are_read_at_the_top_too(version):
    config, file = AutoConfig.from_pretrained(CHECKPOINTS[version]), released(version)
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "rope_theta"):
        assert getattr(config, name) == file[name]
    with pytest.raises(AttributeError, match="no attribute 'num_wings'"):
        _ = config.num_wings


def test_release_says_how_the_tower_sees():
    seen = {
        version: (config.vision_config.positions, config.vision_config.attend_padding)
        for version in CHECKPOINTS
        for config in [AutoConfig.from_pretrained(CHECKPOINTS[version])]
    }
    assert seen == {"2.5": ("row", True), "2.6": ("grid", False)}


def test_released_file_is_saved_unchanged(version, tmp_path):
    AutoConfig.from_pretrained(CHECKPOINTS[version]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == released(version)


def test_saved_file_has_only_the_changes_made(version, tmp_path):
    config = AutoConfig.from_pretrained(CHECKPOINTS[version])
    config.text_config.rms_norm_eps = 0.5
    config.text_config.vocab_size = 1000
    config.query_num = 5
    config.vision_config.num_hidden_layers = 1
    config.save_pretrained(tmp_path)
    saved, before = json.loads((tmp_path / "config.json").read_text()), released(version)
    expected = before | {"rms_norm_eps": 0.5, "vocab_size": 1000, "query_num": 5}
    expected["vision_config"] = before["vision_config"] | {"num_hidden_layers": 1}
    assert saved == expected
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.text_config.vocab_size == 1000
    assert again.vision_config.num_hidden_layers == 1


def test_what_is_changed_while_loading_is_saved(tmp_path):
    AutoConfig.from_pretrained(CHECKPOINTS["2.6"], query_num=5).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved == released("2.6") | {"query_num": 5}


def test_nested_config_is_read_as_written(version, tmp_path):
    config = tiny_config(version)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert "text_config" in json.loads((tmp_path / "config.json").read_text())


def test_flat_and_nested_forms_build_the_same_model(version, tmp_path):
    """A nested config written flat has the same numbers, so the same modules."""
    config = tiny_config(version)
    (tmp_path / "config.json").write_text(json.dumps(config.to_released_dict()))
    flat = AutoConfig.from_pretrained(tmp_path)
    assert flat.text_config.to_dict() == config.text_config.to_dict()
    assert flat.vision_config.to_dict() == config.vision_config.to_dict()
    shapes = {name: parameter.shape for name, parameter in tiny_model(version).named_parameters()}
    assert shapes == {
        name: parameter.shape
        for name, parameter in type(tiny_model(version))(flat).named_parameters()
    }


def test_missing_last_layer_key_means_dropped():
    """As in the released classes; a config of ours, without a file, keeps the layer."""
    file = released("2.6")
    del file["drop_vision_last_layer"]
    assert MiniCPMVConfig.from_dict(file).drop_vision_last_layer is True
    assert MiniCPMVConfig(version="2.6").drop_vision_last_layer is False


def test_use_cache_false_in_released_files_has_no_effect():
    config = MiniCPMVConfig.from_dict(released("2.5") | {"use_cache": False})
    assert config.text_config.use_cache is True


def test_file_without_a_version_is_2_5():
    file = released("2.5")
    file.pop("version", None)
    assert MiniCPMVConfig.from_dict(file).version == "2.5"


def test_released_vocabulary_brings_the_tags():
    file = released("2.6") | {"vocab_size": 151666}
    config = MiniCPMVConfig.from_dict(file)
    assert (config.image_token_id, config.image_start_id, config.slice_end_id) == (
        128244,
        151646,
        151657,
    )
    assert MiniCPMVConfig.from_dict(released("2.6")).image_token_id is None


def test_auto_map_is_not_followed(version):
    config = AutoConfig.from_pretrained(CHECKPOINTS[version], trust_remote_code=True)
    assert type(config) is MiniCPMVConfig
    assert config.auto_map == {}


def test_unknown_version_is_named():
    with pytest.raises(ValueError, match=r"Version '2\.7' of MiniCPM-V is not known"):
        MiniCPMVConfig(version="2.7")
