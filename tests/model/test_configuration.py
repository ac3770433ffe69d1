"""Released flat files and nested ones: read, kept, written back."""

import json

import pytest
from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config

from minicpmv.model.configuration import (
    MiniCPMVConfig,
    MiniCPMVVisionConfig,
    MiniCPMVViTConfig,
    OmniLMMConfig,
)
from minicpmv.model.configuration_minicpm import MiniCPMConfig

from ..helpers.golden import CHECKPOINTS, FIRST_FOLDERS
from ..helpers.tiny import tiny_config, tiny_model

TEXT_CLASSES = {
    "1.0": MiniCPMConfig,
    "2.0": MiniCPMConfig,
    "2.5": LlamaConfig,
    "2.6": Qwen2Config,
    "omnilmm-12b": MistralConfig,
}


def released(version):
    content = json.loads((CHECKPOINTS[version] / "config.json").read_text())
    content.pop("auto_map", None)  # it names code that a saved folder does not hold
    return content


def test_flat_file_becomes_parts(version):
    config, file = AutoConfig.from_pretrained(CHECKPOINTS[version]), released(version)
    assert type(config) is (OmniLMMConfig if version == "omnilmm-12b" else MiniCPMVConfig)
    assert type(config.text_config) is TEXT_CLASSES[version]
    assert config.text_config.hidden_size == file["hidden_size"]
    assert config.text_config.rope_parameters["rope_theta"] == file["rope_theta"]
    tower = file.get("vision_tower_overrides") or file["vision_config"]
    width = tower.get("embed_dim") or tower["hidden_size"]
    assert config.vision_config.hidden_size == width
    assert config.num_queries == config.query_num
    assert config.query_num == (file.get("query_num") or file["num_query"])
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
        for version in ("2.5", "2.6")
        for config in [AutoConfig.from_pretrained(CHECKPOINTS[version])]
    }
    assert seen == {"2.5": ("row", True), "2.6": ("grid", False)}


def test_tower_is_the_one_of_its_name():
    """timm's numbers, where a released file says no more than its name."""
    shapes = {}
    for version in FIRST_FOLDERS:
        file = released(version)
        del file["vision_tower_overrides"]
        config = type(tiny_config(version)).from_dict(file)
        tower = config.vision_config
        assert type(tower) is MiniCPMVViTConfig
        assert config.drop_vision_last_layer is True
        shapes[version] = (
            tower.hidden_size,
            tower.intermediate_size,
            tower.num_hidden_layers,
            tower.num_attention_heads,
            tower.image_size // tower.patch_size,
            tower.has_class_token,
            tower.omits_key_bias,
            tower.post_norm,
        )
        assert config.to_released_dict() == file
    so400m = (1152, 4304, 27, 16, 27, False, False, False)
    enormous = (1792, 15360, 64, 16, 16, True, True, True)
    assert shapes == {"1.0": so400m, "2.0": so400m, "omnilmm-12b": enormous}


def test_tower_of_another_name_is_not_known():
    with pytest.raises(
        ValueError, match=r"vision_encoder 'vit_giant' is not known\. Known: vit_so"
    ):
        MiniCPMVConfig.from_dict(released("2.0") | {"vision_encoder": "vit_giant"})
    # The released code of OmniLMM-12B read no name; there is one tower.
    other = OmniLMMConfig.from_dict(released("omnilmm-12b") | {"mm_vision_tower": "/data/clip"})
    assert other.vision_config.post_norm is True


def test_given_numbers_of_a_tower_win_over_its_name():
    tower = {"hidden_size": 48, "num_attention_heads": 2}
    for version in FIRST_FOLDERS:
        config_class = type(tiny_config(version))
        config = config_class.from_dict(released(version) | {"vision_config": dict(tower)})
        assert config.vision_config.hidden_size == 48
        assert config.vision_config.post_norm is (version == "omnilmm-12b")


def test_either_tower_stands_in_either_release(tmp_path):
    for version, tower_class in (("2.6", MiniCPMVViTConfig), ("2.0", MiniCPMVVisionConfig)):
        tower = tower_class(hidden_size=48, num_attention_heads=2)
        config = MiniCPMVConfig(version=version, vision_config=tower)
        config.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path).vision_config) is tower_class
        (tmp_path / "config.json").write_text(json.dumps(config.to_released_dict()))
        assert type(AutoConfig.from_pretrained(tmp_path).vision_config) is tower_class


def test_release_says_how_the_resampler_places():
    placed = {
        version: (config.query_positions, config.key_positions)
        for version in CHECKPOINTS
        for config in [AutoConfig.from_pretrained(CHECKPOINTS[version])]
    }
    assert placed == {
        "1.0": (True, "table"),
        "2.0": (True, "sincos"),
        "2.5": (False, "sincos"),
        "2.6": (False, "sincos"),
        "omnilmm-12b": (True, "table"),
    }


def test_released_file_is_saved_unchanged(version, tmp_path):
    AutoConfig.from_pretrained(CHECKPOINTS[version]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == released(version)


def test_saved_file_has_only_the_changes_made(version, tmp_path):
    config = AutoConfig.from_pretrained(CHECKPOINTS[version])
    config.text_config.rms_norm_eps = 0.5
    config.text_config.vocab_size = 1000
    config.query_num = 25
    config.vision_config.num_hidden_layers = 1
    config.save_pretrained(tmp_path)
    saved, before = json.loads((tmp_path / "config.json").read_text()), released(version)
    queries = "num_query" if version == "omnilmm-12b" else "query_num"
    expected = before | {"rms_norm_eps": 0.5, "vocab_size": 1000, queries: 25}
    # A name says no number of layers, so all numbers of such a tower are written.
    tower = saved["vision_config"] if version in FIRST_FOLDERS else before["vision_config"]
    expected["vision_config"] = tower | {"num_hidden_layers": 1}
    assert saved == expected
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.text_config.vocab_size == 1000
    assert again.query_num == 25
    assert again.vision_config.to_dict() == config.vision_config.to_dict()


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


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_files_older_than_the_version_field(version):
    file = released(version)
    assert "version" not in file
    config = MiniCPMVConfig.from_dict(file)
    assert (config.version, config.slice_mode) == (version, version == "2.0")


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
    assert type(config) is type(tiny_config(version))
    assert config.auto_map == {}


def test_unknown_version_is_named():
    with pytest.raises(ValueError, match=r"Version '2\.7' of MiniCPM-V is not known"):
        MiniCPMVConfig(version="2.7")


def test_version_must_be_of_the_model_type():
    with pytest.raises(ValueError, match=r"Release 'omnilmm-12b' is of model type 'omnilmm'"):
        MiniCPMVConfig(version="omnilmm-12b")
