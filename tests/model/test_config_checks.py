"""A damaged `config.json` is one line that names the field; no model is built to find out."""

import json
import math

import pytest
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from minicpmv.model.config_checks import check_config
from minicpmv.model.configuration_minicpm import MiniCPMConfig

from ..helpers.golden import CHECKPOINTS, GOLDEN

TEXTS = {
    "2b": "minicpm-2b",
    "1b": "minicpm-1b",
    "128k": "minicpm-2b-128k",
    "moe": "minicpm-moe-8x2b",
}
FOLDERS = CHECKPOINTS | {name: GOLDEN / folder / "ckpt" for name, folder in TEXTS.items()}
LANGUAGE_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
NO_COUNTS = (0, -1, 2.5, "8", [8], True, math.nan, 10**30)
NO_SCALES = (0, -1.5, "12", [12], None, False, math.nan, math.inf, 1e300)


def released(name):
    return json.loads((FOLDERS[name] / "config.json").read_text())


def refused(fields, *words):
    """One line of ValueError with all these words."""
    with pytest.raises(ValueError) as caught:
        check_config(fields)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert all(word in message.lower() for word in ("config.json", *words)), message


@pytest.mark.parametrize("name", FOLDERS)
def test_released_files_are_taken(name):
    check_config(released(name))


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("field", LANGUAGE_COUNTS)
def test_a_count_is_a_whole_number_above_0(name, field):
    for value in NO_COUNTS:
        refused(released(name) | {field: value}, field)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *[("2.6", name) for name in ("rope_theta", "rms_norm_eps")],
        *[("omnilmm-12b", name) for name in ("rope_theta", "rms_norm_eps")],
        *[
            (release, name)
            for release in ("2b", "1b", "moe", "1.0", "2.0")
            for name in ("scale_emb", "scale_depth", "dim_model_base")
        ],
    ],
)
def test_a_scale_is_a_finite_number_above_0_and_never_left_out(name, field):
    for value in NO_SCALES:
        refused(released(name) | {field: value}, field)
    fields = released(name)
    del fields[field]
    refused(fields, field, "has no")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("1.0", ("rope_theta", "query_num", "image_size", "rms_norm_eps", "vocab_size")),
        ("2.0", ("rope_theta", "query_num", "patch_size", "slice_mode")),
        ("2.5", ("rope_theta", "query_num", "vision_config", "hidden_size")),
        ("2.6", ("rope_theta", "query_num", "vision_config", "num_hidden_layers", "version")),
        ("omnilmm-12b", ("rope_theta", "num_query", "image_size", "intermediate_size")),
        ("128k", ("rope_scaling", "max_position_embeddings", "num_attention_heads")),
    ],
)
def test_what_every_released_file_has_is_not_left_out(name, fields):
    for field in fields:
        content = released(name)
        del content[field]
        refused(content, field)


@pytest.mark.parametrize(
    "field", ["hidden_size", "image_size", "num_attention_heads", "patch_size"]
)
def test_the_vision_tower_has_sizes(field):
    content = released("2.6")
    for value in NO_COUNTS:
        refused(content | {"vision_config": content["vision_config"] | {field: value}}, field)
    tower = {key: value for key, value in content["vision_config"].items() if key != field}
    refused(content | {"vision_config": tower}, f"vision_config.{field}")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("2.6", "architectures", 5),
        ("2.6", "attention_dropout", 2),
        ("2.6", "drop_vision_last_layer", "no"),
        ("2.6", "eos_token_id", 10**6),
        ("2.6", "eos_token_id", []),
        ("2.6", "hidden_act", "nope"),
        ("2.6", "hidden_act", None),
        ("2.6", "hidden_size", 200),
        ("2.6", "num_attention_heads", 5),
        ("2.6", "num_key_value_heads", 3),
        ("2.6", "pad_token_id", 744),
        ("2.6", "quantization_config", "int4"),
        ("2.6", "rope_scaling", "x"),
        ("2.6", "rope_scaling", {"type": "stretchy", "factor": 2}),
        ("2.6", "rope_theta", 1),
        ("2.6", "slice_config", [9]),
        ("2.6", "slice_mode", "yes"),
        ("2.6", "tie_word_embeddings", "false"),
        ("2.6", "torch_dtype", "float8_e4m3fn"),
        ("2.6", "torch_dtype", 5),
        ("2.6", "version", [2.6]),
        ("2.6", "version", math.nan),
        ("2.6", "vision_config", None),
        ("2.6", "vision_config", "x"),
        ("2.5", "version", "2.7"),
        ("2.0", "vision_encoder", 7),
        ("2.0", "vision_tower_overrides", {"depth": 0}),
        ("2.0", "scale_resolution", -448),
        ("128k", "rope_scaling", {"type": "dynamic", "factor": "4"}),
        ("128k", "rope_scaling", {"type": "dynamic", "factor": 0.5}),
        ("128k", "rope_scaling", {"factor": 4.0}),
        ("moe", "num_experts_per_tok", 9),
        ("moe", "num_experts", -8),
    ],
)
def test_a_damaged_value_is_named(name, field, value):
    refused(released(name) | {field: value}, field)


def test_parts_of_values_are_named():
    content = released("2.6")
    cases = {
        "slice_config.max_slice_nums": {"slice_config": {"max_slice_nums": 0}},
        "vision_config.model_type": {
            "vision_config": content["vision_config"] | {"model_type": "x"}
        },
        "vision_config.num_attention_heads": {
            "vision_config": content["vision_config"] | {"num_attention_heads": 5}
        },
        "vision_config.image_size": {
            "vision_config": content["vision_config"] | {"image_size": 13}
        },
    }
    for field, change in cases.items():
        refused(content | change, field)


def test_every_way_to_read_a_config_checks_it(tmp_path):
    for name, field in (("2.6", "num_attention_heads"), ("2b", "dim_model_base")):
        content = released(name) | {field: 0}
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"config\.json.* {field} 0; expected"):
            AutoConfig.from_pretrained(tmp_path)
        kind = content.get("model_type", "minicpm")
        with pytest.raises(ValueError, match=field):
            CONFIG_MAPPING[kind].from_pretrained(tmp_path)


def test_nested_files_are_checked_too(tmp_path):
    config = AutoConfig.from_pretrained(CHECKPOINTS["2.6"]).to_dict()
    config["text_config"]["hidden_act"] = "nope"
    with pytest.raises(ValueError, match=r"text_config\.hidden_act 'nope'"):
        check_config(config)


def test_logit_scale_is_the_inverse_of_the_division():
    config = MiniCPMConfig.from_dict(released("2b"))
    assert config.logit_scale == pytest.approx(1 / config.logits_scaling) == 8 / 72
    assert "logit_scale" not in config.to_dict()


def test_queries_and_patches_fill_their_square():
    refused(released("omnilmm-12b") | {"num_query": 63}, "num_query 63", "a square")
    refused(released("1.0") | {"image_size": 449}, "image_size 449", "a multiple of 14")
    overrides = released("2.0")["vision_tower_overrides"] | {"num_heads": 3}
    refused(released("2.0") | {"vision_tower_overrides": overrides}, "num_heads 3", "divisor")
