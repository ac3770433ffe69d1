"""The recorded text models: their cases, and the same checkpoint in the layout of Llama."""

import json
import math
import shutil
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from minicpmv.model.minicpm import MiniCPMForCausalLM

from .golden import GOLDEN

MODELS = {
    "minicpm-2b": "2b",
    "minicpm-1b": "1b",
    "minicpm-2b-128k": "2b-128k",
    "minicpm-moe-8x2b": "moe-8x2b",
}


def recorded(kind: str) -> list[Any]:
    """Parameters (model, inputs, expectations) of every recorded case of one kind."""
    cases = []
    for model in MODELS:
        for case in json.loads((GOLDEN / model / "public" / "manifest.json").read_text())["cases"]:
            if case["kind"] == kind:
                parts = [{k: v["json"] for k, v in case[p].items()} for p in ("inputs", "expect")]
                cases.append(pytest.param(model, *parts, id=f"{model}-{case['name']}"))
    return cases


def in_llama_format(model: str, target: Path) -> Path:
    """The checkpoint with its scalings folded into the weights."""
    config = json.loads((GOLDEN / model / "ckpt" / "config.json").read_text())
    shutil.copytree(GOLDEN / model / "llama_format", target, copy_function=shutil.copyfile)
    target.chmod(0o755)
    tensors = load_file(GOLDEN / model / "ckpt" / "model.safetensors")
    residual = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
    embeddings = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embeddings * config["dim_model_base"] / config["hidden_size"]
    tensors["model.embed_tokens.weight"] = embeddings * config["scale_emb"]
    for name in tensors:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = tensors[name] * residual
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


NAMES = ["2b", "1b", "2b-128k", "moe-8x2b"]


@lru_cache
class Recorded:
    """What the released code computed with the tiny checkpoint of one release."""

    def __init__(self, name: str):
        self.folder = GOLDEN / f"minicpm-{name}"
        self.checkpoint = self.folder / "ckpt"

    @cached_property
    def model(self) -> Any:
        return MiniCPMForCausalLM.from_pretrained(self.checkpoint).eval()
