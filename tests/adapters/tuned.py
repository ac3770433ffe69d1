"""Recorded models that something was trained of: moved a little, at random."""

from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from minicpmv import load
from minicpmv.adapters import LoraSettings, Parts, apply_parts

from ..helpers.golden import CHECKPOINTS, GOLDEN

FOLDERS = CHECKPOINTS | {
    "2b": GOLDEN / "minicpm-2b" / "ckpt",
    "moe-8x2b": GOLDEN / "minicpm-moe-8x2b" / "ckpt",
}
PICTURE = Image.radial_gradient("L").resize((60, 60)).convert("RGB")


def trained(model: str, parts: Parts, *, dtype: str = "float32", **lora: Any) -> tuple[Any, Any]:
    """A chat, and its model with these parts changed."""
    chat = load(FOLDERS[model], "cpu", dtype)
    tuned = apply_parts(chat.model, parts, LoraSettings(**{"r": 2, "alpha": 4, **lora})).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.03)
    return chat, tuned


@lru_cache
def base(model: str) -> Any:
    """The model as it was. Shared: do not change it."""
    return load(FOLDERS[model], "cpu", "float32")


def question(chat: Any, picture: Any = PICTURE, text: str = "What is it?") -> dict[str, Any]:
    """Inputs of the model; without the picture for a text model."""
    if not chat.supports_images:
        return {"input_ids": torch.tensor([[1, 5, 6, 7, 8]])}
    content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    inputs = chat.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )
    return dict(inputs)
