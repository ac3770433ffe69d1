"""`PackedConfig`: which parts of a model are packed in how many bits, and how transformers is told.

It stands in config.json as `quantization_config`, and may be passed to `from_pretrained` as
transformers' own are. Importing this file registers it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import ArgumentError
from .block_layers import BlockEmbedding, BlockLinear
from .packed_linear import PackedEmbedding, PackedLinear

METHOD = "minicpmv"
LAYOUT = 1  # of the bytes, see kernels/packing.py; a file says which one it has
FORMATS = ("int4", "int8")
# What is packed. All else stays as it is: norms, biases, convolutions, tables of positions, the
# router of a mixture of experts.
PARTS = ("decoder", "keys_values", "lm_head", "embed_tokens", "vision", "resampler")
# Query heads for each head of keys and values, from which those are worth 8 bits in int4.
GROUPED = 2
# Linear layers that choose: small, and a wrong choice costs more than a rounded number.
_CHOOSERS = ("gate", "score")
_KEYS_VALUES = (".k_proj", ".v_proj")
# By the first words of released names and ours.
_PREFIXES = {
    "vision": ("vpm.", "vision_tower.", "model.vision_tower."),
    "resampler": ("resampler.", "model.resampler."),
}


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """Weights packed in groups of 32 with a float16 scale: 4.5 or 8.5 bits each.

    Args:
        format: "int4" or "int8"; what `bits` leaves out is as there, see `resolved`.
        bits: 4, 8 or 0 (not packed) for "decoder", "keys_values" (of the decoder), "lm_head",
            "embed_tokens", "vision" and "resampler".
        dense: modules that are not packed, by their names, released or ours, or parts of them.
        layout: of the bytes, in a file.
        modules: of every packed module, by its name, the bits as above, or ggml's type of its
            blocks, where they are as a file had them; then `bits` and `dense` say nothing.

    Raises:
        ValueError: an argument is not known.
    """

    def __init__(
        self,
        format: str = "int4",
        bits: Mapping[str, int] | None = None,
        dense: Iterable[str] = (),
        layout: int = LAYOUT,
        modules: Mapping[str, int | str] | None = None,
        quant_method: str = METHOD,
        **unknown: Any,
    ):
        self.quant_method = METHOD
        if layout != LAYOUT or unknown or quant_method != METHOD:
            more = "".join(f", {name}" for name in unknown)
            raise ValueError(
                f"The packed weights are of {quant_method} in layout {layout!r}{more}; this "
                f"version reads those of {METHOD} in layout {LAYOUT}. Install a newer minicpmv, or "
                "quantise the full weights again."
            )
        if format not in FORMATS:
            raise ArgumentError(f"`format` is {format!r}; known: {', '.join(FORMATS)}.")
        bits = dict(bits or {})
        for part, number in bits.items():
            if part not in PARTS or number not in (0, 4, 8):
                raise ArgumentError(
                    f"`bits` has {part!r}: {number!r}; known are {', '.join(PARTS)} with 4, 8, or "
                    "0 for full weights."
                )
        self.format, self.layout = format, layout
        self.bits, self.dense = bits, list(dense)
        if modules is not None:
            self.modules = dict(modules)

    def resolved(self, config: Any) -> dict[str, int]:
        """Bits of every part of a model.

        In int4 the decoder and the embeddings get 4, vision tower and resampler 8. Where several
        query heads share their keys and values, the projections to those are small, and wrong ones
        cost most: they get 8, paid for by the head, which gets 4. Else the head gets 8. A head that
        is tied to the embeddings is one matrix with them, of 8.
        """
        text: Any = config.get_text_config()
        heads = text.num_attention_heads
        is_grouped = heads >= GROUPED * (getattr(text, "num_key_value_heads", None) or heads)
        is_traded = is_grouped and not config.tie_word_embeddings
        bits = dict.fromkeys(PARTS, 8)
        if self.format == "int4":
            bits |= {"decoder": 4, "embed_tokens": 4}
            bits["keys_values"] = 8 if is_traded else 4
            bits["lm_head"] = 4 if is_traded else 8
        bits |= self.bits
        if config.tie_word_embeddings:
            bits["embed_tokens"] = bits["lm_head"]
        return bits

    def kinds_of(self, model: Any) -> dict[str, int | str]:
        """Bits, or ggml's type, of every module of a model of full weights that is packed."""
        modules: Mapping[str, int | str] | None = getattr(self, "modules", None)
        if modules is None:
            return dict(self.bits_of(model))
        prefix = "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
        names = [name for name, _ in model.named_modules() if f"{prefix}{name}" in modules]
        return {name: modules[f"{prefix}{name}"] for name in names}

    def bits_of(self, model: Any) -> dict[str, int]:
        """Bits of every module that is packed where no `modules` are given, by its name."""
        head, table = model.get_output_embeddings(), model.get_input_embeddings()
        bits = self.resolved(model.config)
        prefix = "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
        found = {}
        for name, module in model.named_modules():
            if not can_be_packed(module, table):
                continue
            released = model.released_name(f"{prefix}{name}.weight").removesuffix(".weight")
            if module is head:
                part = "lm_head"
            elif module is table:
                part = "embed_tokens"
            elif name.rpartition(".")[2] in _CHOOSERS:
                continue
            else:
                rest = "keys_values" if name.endswith(_KEYS_VALUES) else "decoder"
                part = next((p for p, start in _PREFIXES.items() if name.startswith(start)), rest)
            is_dense = any(
                f".{entry}." in f".{form}." for entry in self.dense for form in (name, released)
            )
            if bits[part] and not is_dense:
                found[name] = bits[part]
        return found


def can_be_packed(module: nn.Module, table: Any) -> bool:
    """Whether there is a layer for its packed weight: of a linear layer, and of the model's
    `table` of embeddings."""
    return type(module) is nn.Linear or (module is table and _is_plain(table))


def _is_plain(table: Any) -> bool:
    """Whether an embedding looks rows up and multiplies them by `embed_scale` at most."""
    is_scaled = isinstance(getattr(table, "embed_scale", None), int | float)
    return type(table) is nn.Embedding or is_scaled


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts layers for packed weights into a model before they are loaded."""

    quantization_config: PackedConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            raise ValueError(
                "PackedConfig quantises while loading only with the classes of this package: use "
                "minicpmv.load, or the Auto classes after `import minicpmv.auto`."
            )

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for name, kind in self.quantization_config.kinds_of(model).items():
            model.set_submodule(name, packed_layer(model.get_submodule(name), kind))
        model.tie_weights()
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def packed_layer(
    layer: nn.Module, kind: int | str
) -> PackedLinear | PackedEmbedding | BlockLinear | BlockEmbedding:
    """The layer for the packed weights of a linear layer or an embedding, without memory.

    Args:
        kind: bits of ours, or ggml's type.
    """
    if isinstance(layer, nn.Linear):
        widths = layer.in_features, layer.out_features
        if isinstance(kind, str):
            return BlockLinear(kind, *widths, layer.bias, "meta")
        return PackedLinear(kind, *widths, layer.bias, "meta")
    assert isinstance(layer, nn.Embedding)
    about: Any = (
        layer.num_embeddings,
        layer.embedding_dim,
        layer.padding_idx,
        getattr(layer, "embed_scale", 1.0),
        layer.weight.dtype,
        torch.device("meta"),
    )
    return BlockEmbedding(kind, *about) if isinstance(kind, str) else PackedEmbedding(kind, *about)


__all__ = ["FORMATS", "PackedConfig", "PackedQuantizer", "can_be_packed", "packed_layer"]
