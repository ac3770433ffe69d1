"""Weights, gradients and the optimizer's state spread over processes: what was asked for, by the
environment that `accelerate launch` sets and by --deepspeed, and what of it is refused. Imports no
torch.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

from minicpmv.errors import ArgumentError

_TRUE = ("true", "1", "yes", "on")


def spread_by(deepspeed: str = "") -> str | None:
    """What spreads: "FSDP", "ZeRO-1" to "ZeRO-3", or None.

    Args:
        deepspeed: DeepSpeed's own configuration file; "": as the environment says.

    Raises:
        ArgumentError: the file is no JSON.
    """
    if deepspeed:
        return f"ZeRO-{_stage_of(deepspeed)}"
    if _is_on("ACCELERATE_USE_DEEPSPEED"):
        path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        if path.lower() not in ("", "none"):
            return f"ZeRO-{_stage_of(path)}"
        return f"ZeRO-{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
    return "FSDP" if _is_on("ACCELERATE_USE_FSDP") else None


def spreads_weights(deepspeed: str = "") -> bool:
    """Whether no process has all weights."""
    return spread_by(deepspeed) in ("FSDP", "ZeRO-3")


def check_spread(deepspeed: str, is_qlora: bool) -> None:
    """
    Raises:
        ArgumentError: what spreads does not go with weights of 4 bits, or is an older form.
    """
    kind = spread_by(deepspeed)
    if kind is None:
        return
    if is_qlora and spreads_weights(deepspeed):
        raise ArgumentError(
            f"`qlora` and {kind} do not go together: weights of 4 bits cannot be spread over "
            "processes. Take ZeRO-2 or torchrun alone, or `lora`."
        )
    if kind == "FSDP" and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ArgumentError(
            "FSDP of version 1 is not supported; write `fsdp_version: 2` in the file of "
            "`accelerate launch`, as recipes/fsdp2.yaml does."
        )


def check_spread_device(deepspeed: str, device_type: str) -> None:
    """
    Raises:
        ArgumentError: accelerate would leave FSDP or DeepSpeed out without a word, and train whole
            copies.
        ImportError: DeepSpeed is not installed.
    """
    kind = spread_by(deepspeed)
    if kind is not None and device_type == "cpu":
        raise ArgumentError(
            f"{kind} is for graphics cards, and this trains on the processor, where accelerate "
            "would leave it out in silence. Use torchrun without a file of accelerate or DeepSpeed."
        )
    if kind not in (None, "FSDP") and find_spec("deepspeed") is None:
        raise ImportError(
            f"{kind} needs deepspeed, which is not installed. Install it: pip install deepspeed"
        )


def _stage_of(path: str) -> int:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArgumentError(f"`deepspeed` {path}: not a JSON file ({error}).") from error
    zero = content.get("zero_optimization") if isinstance(content, dict) else None
    stage = zero.get("stage") if isinstance(zero, dict) else None
    return stage if isinstance(stage, int) else 0


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in _TRUE


__all__ = ["check_spread", "check_spread_device", "spread_by", "spreads_weights"]
