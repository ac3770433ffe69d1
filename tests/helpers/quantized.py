"""Quantised checkpoints and models, for tests."""

import json
import shutil

import torch
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import load_file, save_file

from .golden import CHECKPOINTS

TEXT = CHECKPOINTS["2.6"].parents[1] / "minicpm-2b" / "ckpt"


GPTQ = TEXT.parent / "gptq_int4"


# What config.json of an int4 release may list, and the parts that are then packed.
SKIP_LISTS = {
    ("vpm", "resampler", "lm_head"): ("llm.model.layers.",),
    ("out_proj", "kv_proj", "lm_head"): ("llm.model.layers.", "vpm.encoder.layers."),
}


def packed(name, weight):
    """The tensors that stand for one weight in an int4 file."""
    data, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    return {name: data} | {f"{name}.{key}": t for key, t in state.as_dict(packed=True).items()}


def int4_release(
    version,
    folder,
    skip=("vpm", "resampler", "lm_head"),
    change=lambda tensors: 0,
    packs=lambda weight: True,
):
    """A checkpoint in the layout of an int4 release."""
    shutil.copytree(CHECKPOINTS[version], folder)
    tensors = load_file(folder / "model.safetensors")
    for name in list(tensors):
        is_linear = name.endswith("weight") and tensors[name].ndim == 2
        listed = any(entry in name for entry in skip)
        is_part = name.startswith(SKIP_LISTS[skip])
        if is_part and is_linear and not listed and packs(tensors[name]):
            tensors |= packed(name, tensors[name])
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": list(skip),
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits.float()
