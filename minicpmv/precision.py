"""The dtype that a model is computed in, chosen from the checkpoint and the device.

A processor without bfloat16 instructions multiplies bfloat16 four to eight times slower than
float32, and a graphics card older than Ampere emulates it too. `dtype="auto"` therefore keeps the
checkpoint's dtype only where the device has instructions for it; see docs/devices.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .devices import Hardware
from .errors import ArgumentError

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
# Bytes of packed numbers, which stay as they are; everything else becomes float32.
_WIDTHS = {"U8": 1, "I8": 1, "torch.uint8": 1, "torch.int8": 1, "None": 1}
WORKING_TOKENS = 4096  # of prompt and answer, for which the cache is counted
SPARE = 0.9  # of the free memory is taken at most


@dataclass(frozen=True)
class Precision:
    """The dtype of a loaded model, and why.

    Fields:
        dtype: of weights and activations.
        reason: one clause for people.
        stored: the checkpoint's own dtype; None where its files do not say.
        widens: products of many rows are computed in float32, a block of weights at a time.
    """

    dtype: torch.dtype
    reason: str
    stored: torch.dtype | None = None
    widens: bool = False

    @property
    def departs(self) -> bool:
        """Whether the model is computed in another dtype than its checkpoint's."""
        return self.widens or self.stored not in (None, self.dtype)

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}: {self.reason}"


def parse_dtype(dtype: Any) -> torch.dtype | None:
    """The dtype that is meant; None for "auto".

    Raises:
        ValueError: it is no dtype that a model is computed in.
    """
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in (*DTYPES, "auto"):
        return DTYPES.get(dtype.removeprefix("torch."))
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    text = dtype_name(dtype) if isinstance(dtype, torch.dtype) else str(dtype)
    raise ArgumentError(
        f"`dtype` {text!r} is not known; pass one dtype for the whole model. Known: auto, "
        f"{', '.join(DTYPES)}."
    )


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" """
    return str(dtype).removeprefix("torch.")


def choose_dtype(
    stored: torch.dtype | None,
    hardware: Hardware,
    *,
    needed_bytes: int | None = None,
    asked: torch.dtype | None = None,
    is_spread: bool = False,
) -> Precision:
    """The dtype to compute in.

    Args:
        stored: the checkpoint's own; None where it is not known, which counts as float32.
        hardware: where the model will be.
        needed_bytes: what it takes there in float32; None does not count memory.
        asked: by the user; kept whatever the device.
        is_spread: the user has limited the memory, so the model may not grow.
    """
    chosen = asked or stored or torch.float32
    name = dtype_name(chosen)
    is_native = {
        torch.bfloat16: hardware.has_bfloat16,
        torch.float16: hardware.has_float16,
    }.get(chosen, True)
    why = "as asked" if asked else "as stored"
    if is_native:
        return Precision(chosen, why, stored)
    lack = f"{hardware.name} has no {name} instructions"
    if hardware.kind != "cpu":
        if asked:
            return Precision(chosen, f"{why}; {lack}", stored)
        return Precision(torch.float16, f"stored as {name}; {lack}", stored)
    widened = "so products of many rows are computed in float32"
    if asked:
        return Precision(chosen, f"{why}; {lack}, {widened}", stored, widens=True)
    if is_spread:
        memory = "its memory is limited by device_map"
        return Precision(chosen, f"{why}; {memory}; {lack}, {widened}", stored, widens=True)
    free = hardware.free_bytes
    if needed_bytes is None or free is None or needed_bytes <= SPARE * free:
        return Precision(torch.float32, f"stored as {name}; {lack}", stored)
    memory = f"float32 would take {needed_bytes / 1e9:.1f} GB of {free / 1e9:.1f} GB free"
    return Precision(chosen, f"{why}; {memory}; {lack}, {widened}", stored, widens=True)


def choose_training_dtype(hardware: Hardware, asked: torch.dtype | None = None) -> Precision:
    """The dtype to train in: bfloat16 where the device has instructions for it, else float32.

    Never float16 unasked: small gradients vanish in it.
    """
    if asked:
        return Precision(asked, "as asked")
    if hardware.has_bfloat16:
        return Precision(torch.bfloat16, f"{hardware.name} has bfloat16 instructions")
    return Precision(torch.float32, f"{hardware.name} has no bfloat16 instructions")


def stored_dtype(fields: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype that a `config.json` names; None when it names none."""
    named = fields.get("dtype") or fields.get("torch_dtype")
    if isinstance(named, torch.dtype):
        return named
    return DTYPES.get(str(named).removeprefix("torch."))


def working_bytes(config: Any) -> int:
    """What an answer takes beside the weights, in float32: the cache of keys and values, and the
    features of the vision tower.

    Args:
        config: one of our models', or of Llama's kind.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tokens = min(text.max_position_embeddings, WORKING_TOKENS)
    total = 2 * text.num_hidden_layers * heads * width * tokens
    vision = getattr(config, "vision_config", None)
    if vision is not None:
        slices = (getattr(config, "slice_config", None) or {}).get("max_slice_nums", 9) + 1
        patches = 1024  # of a slice of 448 x 448 pixels
        per_patch = 6 * vision.hidden_size + 2 * vision.intermediate_size
        total += slices * patches * per_patch
    return 4 * total


def float32_bytes(headers: Mapping[str, tuple[tuple[int, ...], Any]], gptq_bits: int = 0) -> int:
    """What the tensors of weight files take once floating-point numbers are float32.

    Args:
        headers: shape and dtype of every tensor, by name; the dtype as in torch or in safetensors.
        gptq_bits: of each number in packed GPTQ weights, which are unpacked; 0 for other files.
    """
    total = 0
    for name, (shape, dtype) in headers.items():
        if gptq_bits and name.endswith("qweight"):
            total += 4 * math.prod(shape) * (32 // gptq_bits)
        elif not (gptq_bits and name.endswith(("qzeros", "scales", "g_idx"))):
            total += math.prod(shape) * _WIDTHS.get(str(dtype), 4)
    return total
