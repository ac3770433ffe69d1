"""Which models the `Decoder` computes itself, and what it must know of them.

A class is known by its `forward`, which the decoder replaces: a subclass that has one of its own
is another model. Classes are named, not imported: transformers' modules cost time, and a model
that is loaded has brought its own.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .widen import WidenedMethod

_OURS = "minicpmv.model."
_FAMILIES = ("Llama", "Qwen2", "Mistral", "Mixtral")
_SILU = frozenset(("torch.nn.modules.activation.SiLU", "transformers.activations.SiLUActivation"))
_STRETCHING = ("dynamic", "longrope")
# Adapters that are layers in place of layers, and nothing else.
_LAYER_ADAPTERS = frozenset(
    ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA", "LN_TUNING")
)


def _of_transformers(kind: str) -> frozenset[str]:
    return frozenset(
        f"transformers.models.{name.lower()}.modeling_{name.lower()}.{name}{kind}"
        for name in _FAMILIES
    )


_CAUSAL = _of_transformers("ForCausalLM") | {
    _OURS + "minicpm.MiniCPMForCausalLM",
    _OURS + "modeling.MiniCPMVForConditionalGeneration",
}
_WRAPPING = {_OURS + "modeling.MiniCPMVModel"}
_DECODERS = _of_transformers("Model") | {_OURS + "minicpm.MiniCPMModel"}
_LAYERS = _of_transformers("DecoderLayer") | {_OURS + "minicpm.MiniCPMDecoderLayer"}
_ATTENTIONS = _of_transformers("Attention") | {_OURS + "minicpm.MiniCPMAttention"}
_NORMS = _of_transformers("RMSNorm")
_MLPS = _of_transformers("MLP") | {_OURS + "minicpm.MiniCPMMLP"}
_VISION = frozenset(
    (
        *(
            f"{_OURS}vision.MiniCPMVVision{part}"
            for part in ("Model", "Embeddings", "EncoderLayer", "Attention", "MLP")
        ),
        f"{_OURS}resampler.MiniCPMVResampler",
        f"{_OURS}resampler.MiniCPMVResamplerAttention",
        "torch.nn.modules.module._forward_unimplemented",  # lists of modules
        "torch.nn.modules.linear.Linear",
        "torch.nn.modules.linear.Identity",
        "torch.nn.modules.normalization.LayerNorm",
        "torch.nn.modules.conv.Conv2d",
        "torch.nn.modules.sparse.Embedding",
        "transformers.activations.GELUTanh",
    )
)


def kind_of(module: Any) -> str:
    """The class that says how a module computes: where its `forward` was written."""
    forward = type(module).forward
    return f"{forward.__module__}.{forward.__qualname__.removesuffix('.forward')}"


def why_not(model: Any) -> str | None:
    """A clause that says why the decoder cannot compute a model; None where it can."""
    adapters = _why_not_adapters(model)
    if adapters is not None:
        return adapters
    causal = causal_model(model)
    if not isinstance(causal, nn.Module) or kind_of(causal) not in _CAUSAL:
        return f"{type(causal).__name__} is not one of the models that it knows"
    decoder = decoder_of(causal)
    if kind_of(decoder) not in _DECODERS:
        return f"its language model {type(decoder).__name__} is not one of those that it knows"
    if is_on_several_devices(causal):
        return "its weights are on several devices, or are brought to one when they are needed"
    for part, known in _parts(causal, decoder):
        own = vars(part).get("forward")
        if kind_of(part) not in known or not (own is None or isinstance(own, WidenedMethod)):
            return f"the `forward` of a {type(part).__name__} is not that of its class"
    return None


def _parts(causal: Any, decoder: Any) -> Iterator[tuple[Any, frozenset[str]]]:
    yield causal, _CAUSAL
    yield decoder, _DECODERS
    for layer in decoder.layers:
        yield layer, _LAYERS
        yield layer.self_attn, _ATTENTIONS


def _why_not_adapters(model: Any) -> str | None:
    if not _is_peft(model):
        return None
    for name in model.active_adapters:
        config = model.peft_config[name]
        kind = getattr(config.peft_type, "value", config.peft_type)
        if kind not in _LAYER_ADAPTERS or getattr(config, "alora_invocation_tokens", None):
            return f"its adapter '{name}' ({kind}) is more than layers in place of layers"
    return None


def _is_peft(model: Any) -> bool:
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def causal_model(model: Any) -> Any:
    """The model with its head, out of what wraps it."""
    return model.get_base_model() if _is_peft(model) else model


def decoder_of(causal: Any) -> Any:
    """The layers with their embeddings: `LlamaModel` and the like."""
    inner = causal.model
    if kind_of(inner) in _WRAPPING:
        inner = inner.language_model
    return inner


def is_on_several_devices(causal: Any) -> bool:
    """Whether accelerate moves weights or states while the model computes."""
    devices = {str(device) for device in (getattr(causal, "hf_device_map", None) or {}).values()}
    hooks = (getattr(module, "_hf_hook", None) for module in causal.modules())
    return len(devices) > 1 or any(hook is not None for hook in hooks)


def is_widened(causal: Any) -> bool:
    """Whether products of many rows are computed in float32, see `engine.widen`."""
    return isinstance(vars(causal).get("forward"), WidenedMethod)


_known: dict[tuple[type[Any], frozenset[str]], bool] = {}


def windows(decoder: Any) -> list[int | None]:
    """Of each layer, how many tokens are attended to; None for all."""
    if "qwen2" in kind_of(decoder):
        return [layer.self_attn.sliding_window for layer in decoder.layers]
    has_window = any(name in kind_of(decoder) for name in ("mistral", "mixtral"))
    window = decoder.config.sliding_window if has_window else None
    return [window] * len(decoder.layers)


def max_tokens(text_config: Any) -> int | None:
    """Length up to which keys do not depend on the length; None where they never do."""
    rope = text_config.rope_parameters or {}
    if rope.get("rope_type") not in _STRETCHING:
        return None
    trained = rope.get("original_max_position_embeddings") or text_config.max_position_embeddings
    return int(trained)


def has_siglip_tower(model: Any) -> bool:
    """Whether the vision side is the SigLIP tower with a resampler as `model/` has them."""
    causal = causal_model(model)
    inner = getattr(causal, "model", None)
    if _is_peft(model) or inner is None or kind_of(inner) not in _WRAPPING:
        return False
    return (
        "get_image_features" not in (*vars(causal), *vars(inner))
        and kind_of(inner.vision_tower) == _OURS + "vision.MiniCPMVVisionModel"
        and not inner.resampler.stores_positions
    )


def is_plain_vision(tower: Any, resampler: Any) -> bool:
    """Whether tower and resampler, in evaluation, compute as their classes say, with weights of one
    dtype that kernels take, and nobody follows a module of them."""
    return (
        not tower.training
        and tower.config._attn_implementation == "sdpa"
        and tower.dtype == resampler.query.dtype
        and tower.dtype in (torch.float32, torch.bfloat16)
        and all(map(_is_plain_vision, (*tower.modules(), *resampler.modules())))
    )


def _is_plain_vision(module: nn.Module) -> bool:
    return _has_kind(module, _VISION) and not is_followed(module)


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is PyTorch's product of rows, and nothing else."""
    return type(module) is nn.Linear and not is_followed(module)


def is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is Llama's norm, or the same under another name, and nothing else."""
    return _has_kind(module, _NORMS) and not is_followed(module)


def is_plain_mlp(module: nn.Module) -> bool:
    """Whether a module is Llama's MLP with SiLU, or the same elsewhere, and nothing else."""
    if not _has_kind(module, _MLPS) or is_followed(module):
        return False
    modules = module._modules
    activation = modules.get("act_fn") or modules.get("activation")
    return activation is not None and _has_kind(activation, _SILU) and not is_followed(activation)


def is_followed(module: nn.Module) -> bool:
    """Whether a call of the module does more than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _has_kind(module: nn.Module, kinds: frozenset[str]) -> bool:
    """Whether `kind_of` a module is among `kinds`, remembered by its class."""
    cls = type(module)
    known = _known.get((cls, kinds))
    if known is None:
        known = _known[cls, kinds] = kind_of(module) in kinds
    return known
