"""How far the results of two configurations may be apart, and what they were loaded with.

Differences are measured in standard deviations of the reference's values at a stage, so that one
table of tolerances holds for every model. Two unrelated models are 1.1 of them apart on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from ..chat import Chat
from ..engine.supported import causal_model
from ..precision import dtype_name
from ..quantization import compressed
from ..quantization.files import read_quantization
from ..quantization.packed_linear import PackedLinear
from .prompts import Prompt


@dataclass(frozen=True)
class Tolerance:
    """Standard deviations of the reference: `mean` over all values, `largest` for the worst."""

    mean: float
    largest: float
    reason: str


# Rounding a number to p bits moves it by up to 2^-p of itself. A value passes some hundred
# roundings on its way through the layers, which add up like a random walk: to about ten times one
# rounding on average, and to five or ten times that average for the worst of millions of values.
# The means below are 25 such roundings for bfloat16 (2^-8) and 20 for float16 (2^-11); float32
# (2^-24) gets 300, far below what a wrong number makes. Weights of 4 bits are off by 10 % each, of
# 8 bits by 1 %, and a layer's sums by as much. In a mixture of experts a near tie in a router sends
# a token to another expert, which no rounding explains: three times the room.
TOLERANCES = {
    "exact": Tolerance(0.0, 0.0, "made before any arithmetic of the model: equal"),
    "float32": Tolerance(2e-5, 1e-3, "24 bits: another order of the sums"),
    "float16": Tolerance(0.01, 0.15, "11 bits"),
    "bfloat16": Tolerance(0.1, 1.0, "8 bits"),
    "int8": Tolerance(0.15, 1.5, "weights of 8 bits"),
    "int4": Tolerance(0.4, 4.0, "weights of 4 bits, 10 % off each"),
    "int3": Tolerance(0.7, 7.0, "weights of 2 or 3 bits"),
    "float16, experts": Tolerance(0.03, 0.5, "11 bits, and routers near a tie"),
    "bfloat16, experts": Tolerance(0.3, 5.0, "8 bits, and routers near a tie"),
    "int8, experts": Tolerance(0.5, 5.0, "weights of 8 bits, and routers near a tie"),
    "int4, experts": Tolerance(0.7, 7.0, "weights of 4 bits, and routers near a tie"),
    "int3, experts": Tolerance(1.0, 9.0, "weights of 2 or 3 bits, and routers near a tie"),
}


# Of GGUF files, by the bits in the name of the mixture; others are named as their dtype.
_OF_GGUF = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q8_0": "int8", "Q6_K": "int8"}


def _of_gguf(chat: Chat, part: str) -> str | None:
    """The tolerance for a part of a model that was read from a GGUF file; None for others."""
    kind = getattr(chat.model, "stored_as", {}).get(part)
    if kind is None:
        return None
    usual = "int3" if kind.startswith(("Q2", "Q3")) else "int4"
    stored, dtype = _OF_GGUF.get(kind, usual), dtype_name(chat.model.dtype)
    return max(stored, dtype, key=lambda name: TOLERANCES[name].largest)


def describe(chat: Chat, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What was loaded, as plain data."""
    model = chat.model
    return {
        "model": chat.name,
        "precision": _precision(chat),
        "vision_precision": _vision_precision(chat),
        "rounds_activations": _rounds_activations(chat),
        "dtype": dtype_name(model.dtype),
        "format": model.config.model_type,
        "num_experts": getattr(model.config.get_text_config(), "num_experts", 0),
        "stored_dtype": _of_gguf(chat, "language") or _stored_dtype(model.name_or_path),
        "has_adapter": causal_model(model) is not model,
        "device": str(model.device),
        "attn_implementation": model.config._attn_implementation,
        "prompts": [prompt.name for prompt in prompts],
    }


def _precision(chat: Chat) -> str:
    """The tolerance that a loaded model calls for: its quantisation, else its dtype.

    Weights that were unpacked while loading have lost what their files say.
    """
    of_gguf = _of_gguf(chat, "language")
    if of_gguf is not None:
        return of_gguf
    config = chat.model.config
    written: Any = getattr(config, "quantization_config", None)
    fields = written.to_dict() if hasattr(written, "to_dict") else written
    fields = fields or read_quantization(chat.model.name_or_path, {})
    if fields is None:
        return dtype_name(chat.model.dtype)
    if fields.get("quant_method") == "minicpmv":
        bits = {*fields["bits"].values(), *(fields.get("modules") or {}).values()}
        return "int4" if 4 in bits else "int8"
    if fields.get("quant_method") == compressed.METHOD:
        return f"int{compressed.weights_scheme(fields, chat.model.name_or_path)['num_bits']}"
    number = fields.get("bits") or fields.get("w_bit")
    return f"int{number or (4 if fields.get('load_in_4bit') else 8)}"


def _stored_dtype(path: str) -> str:
    """The dtype that a checkpoint's config.json names."""
    fields, _ = PreTrainedConfig.get_config_dict(path)
    dtype = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    return str(dtype).removeprefix("torch.")


def _vision_precision(chat: Chat) -> str:
    """The same for the tower: released int4 files leave it as it was, ours pack it in 8 bits."""
    of_gguf = _of_gguf(chat, "vision")
    if of_gguf is not None:
        return of_gguf
    tower: Any = getattr(causal_model(chat.model).base_model, "vision_tower", None)
    parameters = [] if tower is None else list(tower.parameters())
    if all(p.is_floating_point() and not hasattr(p, "quant_state") for p in parameters):
        return dtype_name(chat.model.dtype)
    bits = {module.bits for module in tower.modules() if isinstance(module, PackedLinear)}
    return f"int{min(bits)}" if bits else _precision(chat)


def _rounds_activations(chat: Chat) -> bool:
    """Whether products round their inputs to 8 bits: with packed weights, and in LLM.int8()."""
    is_packed = any(isinstance(module, PackedLinear) for module in chat.model.modules())
    is_gguf = hasattr(chat.model, "stored_as")
    return is_packed or (_precision(chat) == "int8" and not is_gguf)


def tolerance_of(facts: dict[str, Any]) -> str:
    """What two runs of the same weights may differ by: packed weights and int8 round the
    activations, too."""
    return "int8" if facts["rounds_activations"] else facts["dtype"]


def vision_tolerance_of(facts: dict[str, Any]) -> str:
    """The same for vision and resampler, whose weights may be full where others are packed."""
    is_full = not facts["vision_precision"].startswith("int")
    return facts["dtype"] if is_full else tolerance_of(facts)


def tolerance_against(ours: dict[str, Any], theirs: dict[str, Any], field: str) -> str:
    """The widest tolerance of the two, of those that can have changed a weight.

    Weights that were written in another dtype or another format were rounded on the way, and so
    were those that an adapter was merged into.
    """
    names = {ours[field], theirs[field]}
    kinds = ("format", "stored_dtype", "has_adapter")
    if any(ours[kind] != theirs[kind] for kind in kinds):
        names |= {ours["stored_dtype"], theirs["stored_dtype"]}
    return max(names & set(TOLERANCES), key=lambda name: TOLERANCES[name].largest)


def with_experts(precision: str, facts: dict[str, Any]) -> str:
    """The row of the table for this precision in a model of that kind."""
    name = f"{precision}, experts"
    return name if facts["num_experts"] and name in TOLERANCES else precision
