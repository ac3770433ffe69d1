"""The language model as llama.cpp reads it: metadata and tensors.

llama.cpp knows three kinds that this family is made of: `llama` (2.5, OmniLMM and models in Llama's
layout), `qwen2` (2.6, nano) and `minicpm` (all others), which is Llama with three scales. The first
and the last turn neighbouring channels (rotary positions), where the released weights turn
channels half a head apart, so the rows of their queries and keys are put in another order.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

from ...checkpoint.headers import Shape
from ...gguf.values import Value
from .source import Source, Tensor

_RUNTIMES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "minicpm": "minicpm",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_EXPERTS = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
_VISION = ("vpm.", "resampler.", "model.vision_tower.", "model.resampler.")


def architecture(config: Any) -> str:
    """What llama.cpp calls this kind of model."""
    return _RUNTIMES[config.get_text_config().model_type]


def num_experts(config: Any) -> int:
    """Experts of a layer; 0 without."""
    text = config.get_text_config()
    return getattr(text, "num_experts", 0) or getattr(text, "num_local_experts", 0) or 0


def language_metadata(config: Any) -> dict[str, Value]:
    """Numbers of the language model, by llama.cpp's keys.

    Raises:
        ValueError: the model has something that llama.cpp would pass over.
    """
    text, kind = config.get_text_config(), architecture(config)
    _check(text)
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys: dict[str, Value] = {
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "block_count": text.num_hidden_layers,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": text.num_key_value_heads or heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": float(text.rms_norm_eps),
        "rope.dimension_count": head_size,
        "rope.freq_base": float(text.rope_parameters["rope_theta"]),
        "vocab_size": text.vocab_size,
    }
    if text.rope_parameters.get("rope_type") == "linear":
        keys["rope.scaling.type"] = "linear"
        keys["rope.scaling.factor"] = float(text.rope_parameters["factor"])
    if kind == "minicpm":
        keys["embedding_scale"] = float(text.scale_emb)
        keys["residual_scale"] = text.scale_depth / math.sqrt(text.num_hidden_layers)
        keys["logit_scale"] = text.hidden_size / text.dim_model_base
    if num_experts(config):
        keys["expert_count"] = num_experts(config)
        keys["expert_used_count"] = text.num_experts_per_tok
    return {f"{kind}.{key}": value for key, value in keys.items()}


def _check(text: Any) -> None:
    problems = {
        f"its activation is {text.hidden_act!r}, and llama.cpp computes silu": (
            text.hidden_act != "silu"
        ),
        "its attention slides over a window": bool(getattr(text, "use_sliding_window", False)),
        f"its rope is of type {text.rope_parameters.get('rope_type')!r}": (
            text.rope_parameters.get("rope_type", "default") not in ("default", "linear", "dynamic")
        ),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise ValueError(f"The language model cannot be written as GGUF: {problem}.")


def language_tensors(source: Source) -> list[Tensor]:
    """Every tensor of the language model, in llama.cpp's names."""
    config = source.config
    prefix = "llm." if config.model_type == "minicpmv" else ""
    tensors = []
    text = config.get_text_config()
    turns = architecture(config) != "qwen2"
    for name in source.shapes:
        if name.startswith(_VISION):
            continue
        inner = name.removeprefix(prefix)
        if ".experts." in inner:
            continue
        target = _target(inner)
        tensor = source.as_is(target, name)
        if turns and ".attn_q." in target:
            tensor = _turned(source, tensor, name, text.num_attention_heads)
        elif turns and ".attn_k." in target:
            heads = text.num_key_value_heads or text.num_attention_heads
            tensor = _turned(source, tensor, name, heads)
        tensors.append(tensor)
    if num_experts(config):
        block = "block_sparse_moe" if text.model_type == "mixtral" else "mlp"
        for layer in range(text.num_hidden_layers):
            for part, target in _EXPERTS.items():
                names = [
                    f"{prefix}model.layers.{layer}.{block}.experts.{expert}.{part}.weight"
                    for expert in range(num_experts(config))
                ]
                tensors.append(_stacked(source, f"blk.{layer}.{target}.weight", names))
    return tensors


def _target(name: str) -> str:
    """ "model.layers.3.self_attn.q_proj.bias" -> "blk.3.attn_q.bias"."""
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    inner, _, end = rest.rpartition(".")
    return f"blk.{layer}.{_LAYER[inner]}.{end}"


def matrix_of(released: str) -> tuple[str, int] | None:
    """A matrix by its released name: its tensor in llama.cpp, and which expert's it is there.

    "llm.model.layers.3.mlp.experts.5.w1.weight" -> ("blk.3.ffn_gate_exps.weight", 5). None for what
    is no matrix of a layer of the language model.
    """
    inner = released.removeprefix("llm.")
    if not inner.startswith("model.layers.") or not inner.endswith(".weight"):
        return None
    if ".experts." not in inner:
        return _target(inner), 0
    _, _, layer, rest = inner.split(".", 3)
    expert, part, _ = rest.partition(".experts.")[2].split(".")
    return f"blk.{layer}.{_EXPERTS[part]}.weight", int(expert)


def _turned(source: Source, tensor: Tensor, released: str, heads: int) -> Tensor:
    def read() -> Iterator[torch.Tensor]:
        whole = source.whole(released)
        yield whole.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(whole.shape)

    return Tensor(tensor.name, tensor.shape, read)


def _stacked(source: Source, name: str, released: list[str]) -> Tensor:
    shape: Shape = (len(released), *source.shapes[released[0]])

    def read() -> Iterator[torch.Tensor]:
        for each in released:
            yield from source.pieces(each)

    return Tensor(name, shape, read)


def statements(config: Any) -> list[str]:
    """What llama.cpp does otherwise than the released model, one line each."""
    text = config.get_text_config()
    lines = []
    if text.rope_parameters.get("rope_type") == "dynamic":
        lines.append(
            f"llama.cpp has no dynamic rope: the answers are the model's up to "
            f"{text.max_position_embeddings:,} tokens, which the file gives as its context."
        )
    return lines
