"""Small checkpoints for `vllm.py`: text models whose heads vLLM's CPU kernels take, an adapter, and
the files of a model that stays vLLM's."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import MiniCPMForCausalLM

SOURCES = {
    "dense": "minicpm-2b",
    "grouped": "minicpm-1b",
    "dynamic": "minicpm-2b-128k",
    "moe": "minicpm-moe-8x2b",
}
POSITIONS = 512


def text_checkpoint(golden: Path, folder: Path, kind: str) -> Path:
    """A text model with random weights: settings and tokenizer of a recorded one, wider heads."""
    source = golden / SOURCES[kind] / "ckpt"
    shutil.copytree(source, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    folder.chmod(0o755)
    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    heads = 4
    fields |= {"hidden_size": 64 * heads, "num_attention_heads": heads}
    fields |= {"num_key_value_heads": 2 if kind == "grouped" else heads}
    fields |= {"max_position_embeddings": POSITIONS, "dim_model_base": 64}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    torch.manual_seed(0)
    model = MiniCPMForCausalLM(MiniCPMConfig.from_pretrained(folder)).float()
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def adapter_for(model: Any, folder: Path, rank: int = 4, alpha: float = 8.0) -> None:
    """Write a random LoRA adapter of the language part, and add it to the weights of `model`."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    layers = model.model.language_model.layers
    for number, layer in enumerate(layers):
        for name in ("q_proj", "v_proj", "o_proj"):
            linear = getattr(layer.self_attn, name)
            down = torch.randn(rank, linear.in_features, generator=generator) * 0.1
            up = torch.randn(linear.out_features, rank, generator=generator) * 0.1
            key = f"base_model.model.model.language_model.layers.{number}.self_attn.{name}"
            tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
            linear.weight.data += up @ down * (alpha / rank)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": ["q_proj", "v_proj", "o_proj"],
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


_CODE = """\
from transformers import PreTrainedConfig
class MiniCPMVConfig(PreTrainedConfig):
    model_type = "minicpmv"
"""
_TOKENIZER = """\
from transformers import PreTrainedTokenizerFast
class MiniCPMVTokenizerFast(PreTrainedTokenizerFast):
    pass
"""


def newer_release(folder: Path, tokenizer: Path, version: float) -> Path:
    """The small files of MiniCPM-V 4.0 or 4.5, with remote code that stands for theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "architectures": ["MiniCPMV"],
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMVConfig"},
        "model_type": "minicpmv",
        "version": version,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": 800,
        "max_position_embeddings": 512,
        "torch_dtype": "float32",
        "query_num": 64,
    }
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (folder / "configuration_minicpm.py").write_text(_CODE, encoding="utf-8")
    (folder / "tokenization_minicpmv_fast.py").write_text(_TOKENIZER, encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    settings = {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "version": version,
        "auto_map": {"AutoImageProcessor": "image_processing_minicpmv.MiniCPMVImageProcessor"},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
