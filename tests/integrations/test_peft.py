"""Adapters of the released code, and PEFT's Auto classes, with the models of this package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv import AutoModel
from minicpmv.model.checkpoint_keys import to_released

from ..helpers.golden import CHECKPOINTS

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # its own

OFFICIAL = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
IDS = torch.tensor([[1, 2, 3, 4]])


def adapter(folder: Path, version: str = "2.6", **settings: Any) -> torch.Tensor:
    """Write an adapter with our names; return the logits of the model that has it."""
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(CHECKPOINTS[version], dtype=torch.float32).eval()
    trained = peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights=False, **settings))
    trained.save_pretrained(folder)
    with torch.no_grad():
        return trained(input_ids=IDS).logits


def as_released(folder: Path, **settings: Any) -> None:
    """Rename an adapter's tensors as the released code names them."""
    path, prefix = folder / "adapter_model.safetensors", "base_model.model."
    tensors = load_file(path)
    renamed = {prefix + to_released(n.removeprefix(prefix)): t for n, t in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, path, metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text()) | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("saved", [None, ["embed_tokens", "resampler"], ["vpm"]])
def test_adapters_of_the_released_code_load(tmp_path: Path, saved: list[str] | None) -> None:
    expected = adapter(tmp_path, target_modules=OFFICIAL, modules_to_save=saved)
    as_released(tmp_path, target_modules=OFFICIAL, modules_to_save=saved)
    model = AutoModel.from_pretrained(CHECKPOINTS["2.6"], dtype=torch.float32).eval()
    loaded = peft.PeftModel.from_pretrained(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, expected)


@pytest.mark.parametrize("version", ["2.6", "2.0", "omnilmm-12b"])
def test_without_targets_only_the_language_model_learns(version: str) -> None:
    model = AutoModel.from_pretrained(CHECKPOINTS[version], dtype=torch.float32)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2))
    trainable = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert trainable
    assert all(".language_model.layers." in name for name in trainable)


@pytest.mark.parametrize(("version", "chat_class"), [("2.0", "MiniCPMV2"), ("2.6", "MiniCPMV")])
def test_auto_classes_give_the_chat_of_the_release(
    tmp_path: Path, version: str, chat_class: str
) -> None:
    adapter(tmp_path, version, target_modules=["q_proj"])
    for auto_mapping in (
        {"base_model_class": "MiniCPMV", "parent_library": "minicpmv.released_api"},
        {"base_model_class": "MiniCPMV", "parent_library": "transformers_modules.x.modeling"},
    ):
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_mapping": auto_mapping}))
        model = peft.AutoPeftModel.from_pretrained(tmp_path)
        assert type(model.base_model.model).__qualname__ == chat_class
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "CAUSAL_LM"}))
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    assert type(model.base_model.model).__qualname__ == chat_class


@pytest.mark.parametrize("order", ["peft, minicpmv.auto", "minicpmv.auto, peft"])
def test_the_package_does_not_import_peft_and_adapts_it_in_either_order(order: str) -> None:
    code = (
        "import sys, minicpmv.auto; assert 'peft' not in sys.modules"
        if order.startswith("minicpmv")
        else "import sys, peft, minicpmv.auto"
    )
    check = (
        "; import peft; from peft.utils.constants import "
        "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as table; "
        "assert {'minicpmv', 'omnilmm', 'minicpm'} <= table.keys(); "
        "assert 'minicpmv' in peft.auto.get_default_import_allowlist()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code + check], check=True)


def test_asking_whether_peft_is_installed_does_not_keep_it_from_being_adapted() -> None:
    code = """
import importlib.util
import sys

from minicpmv.integrations import peft as ours

ours.install()
assert importlib.util.find_spec("peft") and importlib.util.find_spec("peft")
assert "peft" not in sys.modules
import peft.auto

assert peft.auto._minicpmv
assert not any(isinstance(finder, ours._WhenImported) for finder in sys.meta_path)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
