"""compressed-tensors, format pack-quantized (W4A16, W8A16): read as dense weights, and written.

Per linear layer of `out` x `in` weights of 4 or 8 bits:

    weight_packed      (out, in * bits / 32)    int32, code + 2**(bits - 1), the first input in the
                                                lowest bits
    weight_scale       (out, groups)
    weight_shape       (2,)                     out, in
    weight_zero_point  (out * bits / 32, groups)  int32, as the codes, packed along the outputs;
                                                where the scheme is not symmetric
    weight_g_idx       (in,)                    the group of each input, where `actorder` is "group"

    weight[o, i] = weight_scale[o, g] * (code[o, i] - zero[o, g])

What vLLM, SGLang and transformers (with the package compressed-tensors) run. Read here without that
package; where a `quantization_config` is passed, transformers reads the file with it.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .dense import (
    DenseReader,
    Layout,
    Parts,
    Shapes,
    check_groups,
    check_shapes,
    group_size_of,
    num_groups,
)
from .words import WORD, pack_words, unpack_words

METHOD = "compressed-tensors"
FORMAT = "pack-quantized"
PACKED = ("weight_packed", "weight_scale", "weight_shape")
OPTIONAL = ("weight_zero_point", "weight_g_idx")
_BITS = (4, 8)


class CompressedReader(DenseReader):
    """Reads a pack-quantized checkpoint as one of dense weights."""

    def __init__(self, model_class: Any, path: Any, keywords: dict[str, Any], written: Any):
        weights = weights_scheme(written, path)
        bits, needed = weights["num_bits"], list(PACKED)
        if weights.get("strategy") == "channel":
            size = -1
        else:
            size = group_size_of(weights, "group_size", path)
        needed += [] if weights.get("symmetric", True) else ["weight_zero_point"]
        needed += ["weight_g_idx"] if weights.get("actorder") == "group" else []
        rules = Layout(
            tuple(needed),
            tuple(part for part in OPTIONAL if part not in needed),
            ("weight_shape", "weight_g_idx"),
            partial(_check, bits=bits, size=size),
            lambda parts: unpack(parts, bits, size),
        )
        super().__init__(model_class, path, keywords, rules)


def weights_scheme(written: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """How the weights of a file are stored: `weights` of its one group of layers.

    Raises:
        ValueError: it is another format than what is read here.
    """
    groups = list((written.get("config_groups") or {}).values())
    found = written.get("format") or (groups[0].get("format") if groups else None)
    if found != FORMAT:
        raise ValueError(
            f"{str(path)!r} has compressed-tensors weights in the format {found!r}; read is "
            f"{FORMAT!r}. Take such a file (W4A16 or W8A16), or the full weights."
        )
    schemes: list[dict[str, Any]] = [group.get("weights") or {} for group in groups]
    if not schemes or any(scheme != schemes[0] for scheme in schemes):
        raise ValueError(
            f"{str(path)!r} has {len(schemes)} unlike config_groups in its quantization_config; "
            "read is one scheme for all layers. Take the full weights."
        )
    scheme = schemes[0]
    bits, kind = scheme.get("num_bits"), scheme.get("type", "int")
    strategy = scheme.get("strategy") or ("group" if scheme.get("group_size") else "channel")
    if bits not in _BITS or kind != "int" or strategy not in ("group", "channel"):
        raise ValueError(
            f"{str(path)!r} has compressed-tensors weights of {bits} bits ({kind}, by {strategy}); "
            f"read are 4 and 8 bits (int, by group or channel). Take the full weights."
        )
    if any(group.get("input_activations") for group in groups):
        raise ValueError(
            f"{str(path)!r} has compressed-tensors weights with quantised activations; read are "
            "those of 16 bits (W4A16, W8A16). Take such a file, or the full weights."
        )
    return {**scheme, "strategy": strategy}


def unpack(parts: Parts, bits: int, size: int) -> Tensor:
    """The dense weight, (out, in), float32; `size` inputs share a scale, -1: all.

    Raises:
        ValueError: the shapes do not belong together, or an input has no group.
    """
    _check({name: tuple(part.shape) for name, part in parts.items()}, parts, bits, size)
    outputs, inputs = parts["weight_shape"].tolist()
    middle = 2 ** (bits - 1)
    codes = unpack_words(parts["weight_packed"], bits, 1)[:, :inputs] - middle
    scales = parts["weight_scale"].float()
    places = torch.arange(inputs) // (inputs if size == -1 else size)
    places = parts.get("weight_g_idx", places).long()
    if "weight_zero_point" in parts:
        zeros = unpack_words(parts["weight_zero_point"], bits, 0)[:outputs] - middle
        codes = codes - zeros[:, places]
    return codes * scales[:, places]


def pack(codes: Tensor, scales: Tensor) -> Parts:
    """The tensors of a symmetric layer of 4 bits.

    Args:
        codes: (out, in), -8..7.
        scales: (out, groups), of groups of equal size, in order.
    """
    return {
        "weight_packed": pack_words(codes + 8, 4, 1),
        "weight_scale": scales.contiguous(),
        "weight_shape": torch.tensor(codes.shape),
    }


def config_fields(size: int, ignore: Iterable[str]) -> dict[str, Any]:
    """`quantization_config` of a symmetric W4A16 file, as compressed-tensors writes it.

    Args:
        size: inputs that share a scale; -1: all.
        ignore: of the linear layers, those that stay dense; names, or expressions after "re:".
    """
    weights: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None if size == -1 else size,
        "num_bits": 4,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "channel" if size == -1 else "group",
        "symmetric": True,
        "type": "int",
    }
    group = {
        "format": FORMAT,
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": weights,
    }
    return {
        "config_groups": {"group_0": group},
        "format": FORMAT,
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": METHOD,
        "quantization_status": "compressed",
    }


def _check(shapes: Shapes, small: Parts, bits: int, size: int) -> None:
    check_shapes(shapes, {"weight_shape": (2,)})
    outputs, inputs = small["weight_shape"].tolist()
    groups, per_word = num_groups(inputs, size), WORD // bits
    expected = {
        "weight_packed": (outputs, -(-inputs // per_word)),
        "weight_scale": (outputs, groups),
        "weight_zero_point": (-(-outputs // per_word), groups),
        "weight_g_idx": (inputs,),
    }
    check_shapes(shapes, expected)
    if "weight_g_idx" in small:
        check_groups("weight_g_idx", small["weight_g_idx"], groups, "weight_scale")
