"""Checkpoints in the quantised layouts of other programs, written tensor by tensor.

    int4    bitsandbytes NF4, as the released -int4 checkpoints
    w4a16   compressed-tensors, pack-quantized: vLLM, SGLang, transformers
    gptq    AutoGPTQ, symmetric, without act-order

The linear layers of the decoder get 4 bits; vision tower, resampler, head, embeddings and the
router of experts stay as they are. All other tensors are copied.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoint.weights import WeightFiles, write_shards
from ..errors import ArgumentError
from ..quantization import bits, bits_config, compressed, gptq
from ..quantization.files import check_experts, linear_layers
from ..quantization.quantiser import quantise
from .tensors import check_finite

LAYOUTS = ("int4", "w4a16", "gptq")
GROUP_SIZES = (32, 64, 128, -1)  # -1: all inputs of an output
_BLOCK = 1 << 22  # weights quantised at a time


class Layer(NamedTuple):
    """A layer to be quantised: its tensor in the files, and the name of the layer there."""

    source: str
    name: str


class LayoutWriter:
    """Writes the weights of one checkpoint in one layout.

    Args:
        empty: the model without memory for its parameters.
        weights: its files.
        group_size: inputs that share a scale; None for int4, whose blocks have 64.

    Attributes:
        outlines: a meta tensor for each tensor that will be written.

    Raises:
        ValueError: no layer can be quantised, or the files are not those of the model.
    """

    def __init__(self, empty: Any, weights: WeightFiles, to: str, group_size: int | None):
        check_experts(empty)
        self._weights, self._to = weights, to
        self._size = bits.BLOCK if group_size is None else group_size
        layers = linear_layers(empty)
        skipped = bits.skipped_parts(layers)
        chosen = {n: released for n, released in layers.items() if n not in skipped.layers}
        self._dense: list[str] = []  # of those, layers whose sizes do not fit
        self._layers: dict[str, Layer] = {}
        for ours, released in chosen.items():
            module = empty.get_submodule(ours)
            has_words = to != "gptq" or module.in_features % 8 == module.out_features % 8 == 0
            if (self._size != -1 and module.in_features % self._size) or not has_words:
                self._dense += list(dict.fromkeys((released, ours)))
                continue
            found = [n for n in dict.fromkeys((released, ours)) if f"{n}.weight" in weights.shapes]
            if not found:
                raise ValueError(
                    f"The weight files hold no {released}.weight. Download them again."
                )
            shape = tuple(module.weight.shape)
            stored = weights.shapes[f"{found[0]}.weight"]
            if tuple(stored) != shape:
                raise ValueError(
                    f"{released}.weight has shape {tuple(stored)}, expected {shape} by config.json."
                )
            self._layers[f"{found[0]}.weight"] = Layer(f"{found[0]}.weight", found[0])
        if not self._layers:
            raise ValueError(
                f"No layer can be quantised to {to}: their sizes are no multiple of {self._size}. "
                "Use a smaller --group-size with w4a16 or gptq, or --to packed-int4."
            )
        if self._dense:
            warnings.warn(
                f"{len(chosen) - len(self._layers)} of {len(chosen)} layers keep their full "
                f"weights, because their sizes are no multiple of {self._size}: {self._dense[0]}.",
                stacklevel=3,
            )
        self._entries = skipped.entries
        self._made: dict[str, Tensor] = {}
        self._shapes: dict[Any, dict[str, Tensor]] = {}
        self.outlines: dict[str, Tensor] = {}
        self._sources: dict[str, Layer] = {}
        for name in weights.shapes:
            layer = self._layers.get(name)
            if layer is None:
                self.outlines[name] = _narrow(weights[name].to("meta"))
                continue
            for part, outline in self._outline(layer).items():
                self.outlines[part], self._sources[part] = outline, layer

    def write(self, folder: Path, shard_size: int) -> Iterator[str]:
        """Write the files; yields the name of each tensor that has been made."""
        return write_shards(folder, self.outlines, self._make, shard_size)

    def config_fields(self) -> dict[str, Any]:
        """`quantization_config` of what is written."""
        if self._to == "int4":
            config = bits_config("nf4")
            config.llm_int8_skip_modules = [*self._entries, *self._dense]
            config.bnb_4bit_compute_dtype = self._compute_dtype()
            return config.to_dict()
        patterns = [rf"(.*[.])?{entry}([.].*)?$" for entry in (*self._entries, *self._escaped())]
        if self._to == "w4a16":
            return compressed.config_fields(self._size, [f"re:{pattern}" for pattern in patterns])
        return {
            "bits": 4,
            "checkpoint_format": "gptq",
            "desc_act": False,
            "dynamic": {f"-:{pattern}": {} for pattern in patterns},
            "group_size": self._size,
            "lm_head": False,
            "quant_method": "gptq",
            "static_groups": False,
            "sym": True,
            "true_sequential": True,
        }

    def _escaped(self) -> list[str]:
        return [re.escape(name) for name in self._dense]

    def _compute_dtype(self) -> torch.dtype:
        stored = (self._weights.dtypes[layer] for layer in self._layers)
        found = next(stored)
        return torch.float32 if found in (None, torch.float64) else found

    def _make(self, name: str) -> Tensor:
        layer = self._sources.get(name)
        if layer is None:
            tensor = _narrow(self._weights[name])
            check_finite(name, tensor, self._weights.file_of(name))
            return tensor
        if name not in self._made:
            with self._weights.mapped(layer.source) as weight:
                weight = _narrow(weight)
                check_finite(layer.source, weight, self._weights.file_of(layer.source))
                self._made |= self._parts(layer, weight)
        return self._made.pop(name)

    def _parts(self, layer: Layer, weight: Tensor) -> dict[str, Tensor]:
        if self._to == "int4":
            return {f"{layer.source}{part}": t for part, t in bits.pack(weight).items()}
        # GPTQ's kernels take float16; compressed-tensors' scales are as the weights were.
        dtype = torch.float16 if self._to == "gptq" else weight.dtype
        size = weight.shape[1] if self._size == -1 else self._size
        rows = max(1, _BLOCK // weight.shape[1])
        blocks = [quantise(block, 4, size, dtype) for block in weight.split(rows)]
        codes = torch.cat([codes for codes, _ in blocks]).to(torch.int8) - 8
        scales = torch.cat([scales for _, scales in blocks])
        if not bool(scales.isfinite().all()):
            raise ValueError(
                f"{layer.source} has numbers that are too large for {dtype}, in "
                f"{self._weights.file_of(layer.source)}."
            )
        pack: Callable[..., dict[str, Tensor]] = (
            gptq.pack if self._to == "gptq" else compressed.pack
        )
        return {f"{layer.name}.{part}": t for part, t in pack(codes, scales).items()}

    def _outline(self, layer: Layer) -> dict[str, Tensor]:
        """Shapes and dtypes of the parts: those of a layer of zeros, of the same shape."""
        shape = self._weights.shapes[layer.source]
        key = (shape, self._weights.dtypes[layer.source])
        if key not in self._shapes:
            zeros = _narrow(torch.zeros(shape, dtype=key[1]))
            parts = self._parts(Layer("weight", ""), zeros)
            self._shapes[key] = {name: part.to("meta") for name, part in parts.items()}
        prefix = layer.name if self._to != "int4" else f"{layer.name}."
        return {f"{prefix}{name}": part for name, part in self._shapes[key].items()}


def _narrow(tensor: Tensor) -> Tensor:
    """Programs that read these layouts know no numbers of 64 bits."""
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def check_group_size(to: str, group_size: int | None) -> int | None:
    """The group size to use: 128 unless asked; None for int4.

    Raises:
        ArgumentError: it has no effect, or is not known.
    """
    if to not in ("w4a16", "gptq"):
        if group_size is not None:
            raise ArgumentError(f"`group_size` has no effect with {to!r}; w4a16 and gptq have one.")
        return None
    if group_size is not None and group_size not in GROUP_SIZES:
        known = ", ".join(map(str, GROUP_SIZES))
        raise ArgumentError(f"`group_size` is {group_size!r}; known: {known}.")
    return group_size or 128


__all__ = ["GROUP_SIZES", "LAYOUTS", "LayoutWriter", "check_group_size"]
