"""The recipes' files for several GPUs are ones that accelerate reads, and what they hold out is
not trained.
"""

import importlib.util
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

from ..helpers.tiny import VERSIONS, tiny_model

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(name: str):
    """A script of the recipes as a module."""
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("fsdp2", "FSDP", {"fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"}),
        ("deepspeed_zero2", "DEEPSPEED", {"zero_stage": 2}),
        ("deepspeed_zero3", "DEEPSPEED", {"zero_stage": 3, "zero3_save_16bit_model": True}),
    ],
)
def test_accelerate_reads_it(name: str, kind: str, settings: dict[str, object]) -> None:
    config = load_config_from_file(str(RECIPES / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert config.mixed_precision == "bf16"
    found = config.fsdp_config if kind == "FSDP" else config.deepspeed_config
    assert settings.items() <= found.items()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_units_that_a_model_names_are_there(version: str) -> None:
    """FSDP wraps these classes, and leaves a model whole that has none of them."""
    model = tiny_model(version)
    classes = {type(module).__name__ for module in model.modules()}
    named = set(model._no_split_modules)
    assert any(name.endswith("DecoderLayer") and name in classes for name in named)
    if isinstance(model, MiniCPMVForConditionalGeneration):
        assert any("Vision" in name or "ViT" in name for name in named & classes)


def test_displays_of_another_seed_are_held_out_too() -> None:
    gauges = recipe("draw_gauges")
    trained, first = gauges.readings_of(300, 200, 0)
    again, second = gauges.readings_of(300, 200, 1)
    assert trained == again
    assert (len(trained), len(first), len(second)) == (300, 200, 200)
    assert len({*trained, *first, *second}) == 700
    assert gauges.readings_of(300, 200, 2)[1] != second
    with pytest.raises(ValueError, match="leave 100 of 1000 for seed 1"):
        gauges.readings_of(500, 400, 1)
