"""The recipes' files for several GPUs are ones that accelerate reads."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

from ..helpers.tiny import VERSIONS, tiny_model

RECIPES = Path(__file__).parents[2] / "recipes"


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
