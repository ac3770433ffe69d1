"""How much memory a fine-tuning will take, and on what, before weights are read."""

import sys
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import nn

from ...quantization import weight_bytes

_LOSS_TILE = 64 << 20  # bytes of logits at a time, see `model/loss.py`
# Kernels, caches, threads, and what draws the curve; on a graphics card only tensors are counted.
_LIBRARIES = {"cpu": 300 << 20}


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device.

    Fields:
        parts: what takes how much.
        free_bytes: what is there; None where the device does not say.
        num_trained: parameters that are trained; num_parameters: all.
    """

    parts: dict[str, int] = field(default_factory=dict)
    free_bytes: int | None = None
    num_trained: int = 0
    num_parameters: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "total_bytes": self.total,
            "parts": self.parts,
            "free_bytes": self.free_bytes,
            "trained_parameters": self.num_trained,
            "parameters": self.num_parameters,
        }

    def as_text(self) -> str:
        """The parts and their sum, one a line."""
        rows = [*self.parts.items(), ("in all, per device", self.total)]
        if self.free_bytes is not None:
            rows.append(("free here", self.free_bytes))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {_in_units(size):>9}" for name, size in rows]
        share = self.num_trained / max(1, self.num_parameters)
        lines.insert(
            0,
            f"{self.num_trained:,} of {self.num_parameters:,} parameters are trained "
            f"({100 * share:.1f} %)",
        )
        return "\n".join(lines)


def estimate(
    empty: Any,
    *,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype,
    capacity: int,
    longest: int,
    slices: int,
    targets: int,
    checkpointing: bool,
    quantize: str | None = None,
    num_devices: int = 1,
    sharded: tuple[str, ...] = (),
    optimizer_bytes: int = 8,
    free_bytes: int | None = None,
    device_type: str = "cpu",
) -> Estimate:
    """
    Args:
        empty: the model on the meta device, with `requires_grad` and adapters as in training.
        dtype: of activations; frozen_dtype: of frozen weights.
        capacity: tokens of a packed row; longest: of the longest example.
        slices: of a row whose pictures are encoded in each step; 0 where they are stored.
        targets: tokens of a row that are trained, at most.
        quantize: "nf4" for weights of 4 bits.
        num_devices, sharded: the parts ("weights", "gradients", "optimizer") that are spread over
            so many devices.
        optimizer_bytes: per trained parameter.
    """
    trained = frozen = 0
    for parameter in empty.parameters():
        if parameter.requires_grad:
            trained += parameter.numel()
        else:
            frozen += parameter.numel()
    base = empty.get_base_model() if hasattr(empty, "get_base_model") else empty
    frozen_bytes = frozen * frozen_dtype.itemsize
    if quantize is not None:
        whole = sum(p.numel() for p in base.parameters()) * frozen_dtype.itemsize
        frozen_bytes = max(0, frozen_bytes - whole + weight_bytes(base, quantize, dtype.itemsize))
    tokens = max(capacity, longest)
    parts = {
        "frozen weights": frozen_bytes,
        "trained weights, float32": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": optimizer_bytes * trained,
        "activations of the language model": _text_activations(
            base, tokens, dtype.itemsize, checkpointing
        ),
        "activations of the vision side": _vision_activations(
            base, slices, dtype.itemsize, checkpointing
        ),
        "loss": _loss_bytes(base, tokens, min(tokens, targets)),
        "libraries": _LIBRARIES.get(device_type, 0),
    }
    names = {
        "weights": ("frozen weights", "trained weights, float32"),
        "gradients": ("gradients",),
        "optimizer": ("optimizer",),
    }
    for kind in sharded:
        for name in names[kind]:
            parts[name] //= num_devices
    return Estimate(
        {name: int(size) for name, size in parts.items() if size},
        free_bytes,
        trained,
        trained + frozen,
    )


def _text_activations(base: Any, tokens: int, width: int, checkpointing: bool) -> int:
    """What the decoder keeps for the backward pass."""
    config = base.config.get_text_config()
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    experts = getattr(config, "num_experts_per_tok", None) or 1
    queries, keys = heads * head_dim, groups * head_dim
    # What attention, the gate and its product need, and the norms' inputs in float32.
    per_layer = width * (2 * queries + 2 * keys + 3 * inner * experts) + 8 * hidden
    if _is_trained_whole(base):
        # Each product keeps its own input, and a norm what its weight multiplies.
        per_layer += width * (5 * hidden + queries + inner * experts) + 8 * hidden
    layers = config.num_hidden_layers
    extra = _adapter_bytes(base, width, in_tower=False)
    if checkpointing:
        return tokens * (layers * hidden * 4 + per_layer + extra // max(1, layers))
    return tokens * (layers * per_layer + extra)


def _is_trained_whole(base: Any) -> bool:
    """Whether the decoder's own matrices are trained: frozen ones keep no input."""
    return any(
        parameter.requires_grad
        for name, parameter in base.named_parameters()
        if ".layers." in name and "vision_tower" not in name and "lora_" not in name
    )


def _adapter_bytes(base: Any, width: int, *, in_tower: bool) -> int:
    """What adapters keep a token: their inputs, what dropout drew, products of their rank."""
    total = 0
    for name, module in base.named_modules():
        if not hasattr(module, "lora_A") or ("vision_tower" in name) != in_tower:
            continue
        drops = any(m.p > 0 for m in module.lora_dropout.modules() if isinstance(m, nn.Dropout))
        columns = (2 if drops else 1) * module.in_features + sum(module.r.values())
        if any(module.use_dora.values()):  # two products more
            columns += 2 * module.out_features
        total += width * columns
    return total


def _vision_activations(base: Any, slices: int, width: int, checkpointing: bool) -> int:
    config = getattr(base.config, "vision_config", None)
    if config is None or not slices:
        return 0
    side = (getattr(base.config, "image_size", None) or config.image_size) // config.patch_size
    patches = slices * side * side
    hidden, inner = config.hidden_size, config.intermediate_size
    per_layer = width * (8 * hidden + 2 * inner) + 16 * hidden
    is_trained = any(p.requires_grad for n, p in base.named_parameters() if "vision_tower" in n)
    layers = config.num_hidden_layers
    if not is_trained:
        return patches * per_layer
    extra = _adapter_bytes(base, width, in_tower=True)
    if checkpointing:
        return patches * (layers * hidden * 4 + per_layer + extra // layers)
    return patches * (layers * per_layer + extra)


def _loss_bytes(base: Any, tokens: int, targets: int) -> int:
    """Logits of a tile, and gradients; tokens that are not trained have no logits."""
    config = base.config.get_text_config()
    logits = 4 * targets * config.vocab_size
    return 3 * min(_LOSS_TILE, logits) + 4 * (2 * targets + tokens) * config.hidden_size


def memory_now(device: torch.device) -> int:
    """Bytes that this process, or its part of a graphics card, holds now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def peak_memory(device: torch.device) -> int:
    """The most that it has held."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _in_units(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


__all__ = ["Estimate", "estimate", "memory_now", "peak_memory"]
