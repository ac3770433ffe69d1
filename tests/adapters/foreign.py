"""Folders as other trainers write them, made of adapters of ours by renaming."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save_file

from minicpmv.model.checkpoint_keys import to_released

Trainer = Literal["official", "ms-swift", "LLaMA-Factory", "ZeRO-3"]
_PREFIX = "base_model.model."
# Beside an adapter or a whole checkpoint.
FILES: dict[str, dict[str, Any]] = {
    "official": {},
    "ms-swift": {
        "args.json": {"model": "OpenBMB/MiniCPM-V-2_6", "tuner_type": "lora"},
        "additional_config.json": {"lora_dtype": None, "lorap_lr_ratio": None},
        "trainer_state.json": {"global_step": 2},
    },
    "LLaMA-Factory": {"all_results.json": {"train_loss": 1.0}, "trainer_state.json": {}},
    "ZeRO-3": {},
}


def adapter_of(trainer: Trainer, folder: Path, base: Path, model_type: str) -> None:
    """Turn the adapter in `folder` into one of another trainer."""
    (folder / "training_settings.json").unlink()
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    inner = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    if model_type != "minicpm":
        inner = {to_released(name, model_type): tensor for name, tensor in inner.items()}
    if trainer == "ZeRO-3":  # parameters as they are named in training
        inner = {
            name.replace(".weight", ".default.weight") if "lora_" in name else name: tensor
            for name, tensor in inner.items()
        }
    save_file({_PREFIX + n: t for n, t in inner.items()}, path, metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {
        "base_model_name_or_path": str(base),
        "auto_mapping": {
            "base_model_class": "MiniCPMV",
            "parent_library": "transformers_modules.MiniCPM-V-2_6.modeling_minicpmv",
        },
    }
    if trainer != "ms-swift":
        config["target_modules"] = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
        if model_type == "omnilmm":
            config["target_modules"] = r"model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
    else:
        start = "model" if model_type == "omnilmm" else "llm"
        config["target_modules"] = rf"^({start}(?=\.).*\.(k_proj|o_proj|q_proj|v_proj))$"
        config["task_type"] = "CAUSAL_LM"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    _add_files(trainer, folder)


def checkpoint_of(trainer: Trainer, folder: Path, base: Path) -> None:
    """A whole model that another trainer has written: the release's files and its own."""
    shutil.copytree(base, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    _add_files(trainer, folder)
    (folder / "global_step2").mkdir()
    (folder / "optimizer.pt").write_bytes(b"not a model")
    (folder / "training_args.bin").write_bytes(b"not a model")


def _add_files(trainer: Trainer, folder: Path) -> None:
    for name, content in FILES[trainer].items():
        (folder / name).write_text(json.dumps(content))
    if trainer == "LLaMA-Factory":
        (folder / "training_args.yaml").write_text("stage: sft\nfinetuning_type: lora\n")
        (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
