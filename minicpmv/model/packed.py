"""Attention over rows that hold several conversations one after another, for training.

A packed row is one sample (1, tokens) without padding: `cu_seq_lens_q` (segments + 1,) says where
each conversation begins, and positions begin again at 0 in each. Attention runs segment by segment
through PyTorch's own causal kernels, so no mask of tokens x tokens is ever built, and what a
segment gives is bit for bit what it gives alone.

It is an attention of transformers' interface, "minicpmv_packed", without a function for masks: then
transformers builds none. It is set for the whole training, not around a forward pass, because
gradient checkpointing computes layers again in the backward pass.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACKED = "minicpmv_packed"

# Frequencies of these follow the length of the whole row.
_ROPE_OF_LENGTH = ("dynamic", "longrope")


def why_not_packed(model: Any, capacity: int) -> str | None:
    """Why `model` cannot be trained on packed rows of up to `capacity` tokens; None: it can.

    Args:
        model: one of our models, alone or in a `PeftModel`.
    """
    config = _text_config(model)
    attention = config._attn_implementation
    if attention not in ("sdpa", "flash_attention_2", PACKED):
        return (
            f"attention {attention!r} has no packed form; load the model with "
            "attn_implementation='sdpa' or 'flash_attention_2'"
        )
    devices = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(devices) > 1:
        return f"the model is spread over {len(devices)} devices (device_map)"
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind in _ROPE_OF_LENGTH:
        known = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        if capacity > known:
            return (
                f"{kind} rotary positions stretch with the length of a row beyond {known} tokens, "
                f"and rows may have {capacity}"
            )
    return None


def use_packed_attention(model: Any) -> None:
    """Let the language model of `model` take packed rows, and only those, until
    `plain_attention`. FlashAttention 2, when the model was loaded with it, takes them by itself.

    Raises:
        ValueError: the model's attention has no packed form, see `why_not_packed`.
    """
    reason = why_not_packed(model, 0)
    if reason is not None:
        raise ValueError(f"Packed rows are not possible: {reason}.")
    if _text_config(model)._attn_implementation == "sdpa":
        _set_attention(model, PACKED)


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Inside, `model` takes ordinary batches again: for `generate`, chats and evaluation."""
    was_packed = _text_config(model)._attn_implementation == PACKED
    if was_packed:
        _set_attention(model, "sdpa")
    try:
        yield
    finally:
        if was_packed:
            _set_attention(model, PACKED)


def with_borders(
    text_config: Any, keywords: dict[str, Any], attention_mask: Any, past_key_values: Any
) -> dict[str, Any]:
    """`keywords` of the language model with the borders of a packed row as whole numbers, read
    back from the device once for all layers.

    Raises:
        ValueError: the model is set to packed rows, and this is none: its borders are missing, or
            a mask or a cache is given, which packed attention would not see.
    """
    if text_config._attn_implementation != PACKED or "segment_borders" in keywords:
        return keywords
    if keywords.get("cu_seq_lens_q") is None:
        raise ValueError(
            "The model is set to packed rows (use_packed_attention) and got none: cu_seq_lens_q is "
            "missing. For ordinary batches use plain_attention(model)."
        )
    if attention_mask is not None or past_key_values is not None:
        name = "attention_mask" if attention_mask is not None else "past_key_values"
        raise ValueError(
            f"Packed rows take no {name}. For ordinary batches use plain_attention(model)."
        )
    return keywords | {"segment_borders": keywords["cu_seq_lens_q"].tolist()}


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    segment_borders: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment.

    Args:
        query: (1, num_heads, tokens, head_dim); key, value: (1, num_key_value_heads, tokens,
            head_dim).
        cu_seq_lens_q: (segments + 1,) int32, where segments begin, and the number of tokens.
        segment_borders: the same as whole numbers.
        sliding_window: a token sees so many, itself included; None: all before it.

    Returns:
        (1, tokens, num_heads, head_dim), and no weights.

    Raises:
        ValueError: this is no packed row.
    """
    num_tokens = query.shape[2]
    if cu_seq_lens_q is None or attention_mask is not None:
        raise ValueError(
            "Packed attention needs cu_seq_lens_q and takes no attention_mask. For ordinary "
            "batches use plain_attention(model)."
        )
    borders = cu_seq_lens_q.tolist() if segment_borders is None else segment_borders
    if query.shape[0] != 1 or key.shape[2] != num_tokens or borders[-1] != num_tokens:
        raise ValueError(
            f"Queries {tuple(query.shape)} and keys {tuple(key.shape)} are no packed row with "
            f"segments up to {borders[-1]}; expected one sample of as many tokens, without a cache."
        )
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    if query.is_cuda and is_half and not dropout and _can_varlen():
        longest = max(end - start for start, end in pairwise(borders))
        return _varlen(query, key, value, cu_seq_lens_q, longest, scaling, sliding_window), None
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout}
    options["enable_gqa"] = query.shape[1] != key.shape[1]
    # Gradients of `split` are put together once; those of slices, each in a row full of zeros.
    lengths = [end - start for start, end in pairwise(borders)]
    parts = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        length = q.shape[2]
        if sliding_window is None or length <= sliding_window:
            parts.append(scaled_dot_product_attention(q, k, v, is_causal=True, **options))
        else:
            band = _band(length, sliding_window, query.device)
            parts.append(scaled_dot_product_attention(q, k, v, band, **options))
    output = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    return output.transpose(1, 2).contiguous(), None


def _band(length: int, width: int, device: torch.device) -> torch.Tensor:
    """(length, length), true where a token sees another: itself and the `width` - 1 before it."""
    index = torch.arange(length, device=device)
    distance = index[:, None] - index
    return (distance >= 0) & (distance < width)


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """All segments in one kernel: (1, tokens, num_heads, head_dim)."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (tokens, num_heads, head_dim)
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    output: Any = varlen_attn(
        q,
        k,
        v,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=window,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return output[None]


@cache  # not at import: the module brings torch's compiler with it
def _can_varlen() -> bool:
    """Whether this PyTorch has the kernel, with grouped queries."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _inner(model: Any) -> Any:
    """The model itself, out of PEFT's or a wrapper of processes."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _text_config(model: Any) -> Any:
    return _inner(model).config.get_text_config()


def _set_attention(model: Any, name: str) -> None:
    inner = _inner(model)
    has_parts = "text_config" in inner.config.sub_configs
    inner.set_attn_implementation({"text_config": name} if has_parts else name)


ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)

__all__ = [
    "PACKED",
    "packed_attention",
    "plain_attention",
    "use_packed_attention",
    "why_not_packed",
    "with_borders",
]
