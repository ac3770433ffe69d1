"""AutoGPTQ files: unpacked to dense weights while they are read, and written.

Per linear layer of `out` x `in` weights, with `bits` bits each and groups of inputs:

    qweight  (in * bits / 32, out)      int32, the first of a word's inputs in its lowest bits
    qzeros   (groups, out * bits / 32)  int32, zero - 1, packed along the outputs
    scales   (groups, out)
    g_idx    (in,)                      int32, the group of each input

    weight[o, i] = scales[g_idx[i], o] * (q[i, o] - zero[g_idx[i], o])

Where optimum and gptqmodel are installed, transformers reads the files of text models with them,
and those of all where a `quantization_config` is passed.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.utils import is_gptqmodel_available, is_optimum_available

from .dense import DenseReader, Layout, Parts, Shapes, check_groups, check_shapes, group_size_of
from .words import WORD, pack_words, unpack_words

PACKED = ("qweight", "qzeros", "scales", "g_idx")
_BITS = (2, 4, 8)


class GptqReader(DenseReader):
    """Reads an AutoGPTQ checkpoint as one of dense weights."""

    def __init__(self, model_class: Any, path: Any, keywords: dict[str, Any], written: Any):
        bits = written.get("bits")
        layout = written.get("checkpoint_format") or "gptq"
        if bits not in _BITS or layout != "gptq":
            raise ValueError(
                f"{str(path)!r} has GPTQ weights of {bits} bits in the layout {layout!r}; read are "
                f"{', '.join(map(str, _BITS))} bits in the layout 'gptq'. Install gptqmodel and "
                "optimum, and transformers reads others."
            )
        if written.get("group_size") is not None:
            group_size_of(written, "group_size", path)
        rules = Layout(
            PACKED,
            (),
            ("g_idx",),
            partial(_check, bits=bits),
            lambda parts: unpack(**parts, bits=bits),
        )
        base = written.get("model_file_base_name") or "model"
        super().__init__(model_class, path, keywords, rules, base)

    @staticmethod
    def is_elsewhere(model_class: Any) -> bool:
        """Whether transformers can read these files by itself: of text models alone."""
        is_text = "vision_config" not in (model_class.config_class.sub_configs or {})
        return is_text and is_optimum_available() and is_gptqmodel_available()


def unpack(qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor, bits: int) -> Tensor:
    """The dense weight, (out, in), float32.

    Raises:
        ValueError: the shapes do not belong together, or an input has no group.
    """
    parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": g_idx}
    _check({name: tuple(part.shape) for name, part in parts.items()}, parts, bits)
    codes = unpack_words(qweight, bits, 0)  # (in, out)
    # A zero of 0 is stored as all bits set.
    zeros = (unpack_words(qzeros, bits, 1) + 1) & (2**bits - 1)  # (groups, out)
    places = g_idx.long()
    weight = scales.float()[places] * (codes - zeros[places])
    return weight.t().contiguous()  # (out, in)


def pack(codes: Tensor, scales: Tensor) -> Parts:
    """The tensors of a layer of 4 bits with its zeros in the middle, which is `sym`.

    Args:
        codes: (out, in), -8..7.
        scales: (out, groups), of groups of equal size, in order.
    """
    outputs, inputs = codes.shape
    groups = scales.shape[1]
    zeros = torch.full((groups, outputs), 7)  # zero - 1
    return {
        "qweight": pack_words(codes.t() + 8, 4, 0),
        "qzeros": pack_words(zeros, 4, 1),
        "scales": scales.t().contiguous(),
        "g_idx": (torch.arange(inputs) // (inputs // groups)).int(),
    }


def _check(shapes: Shapes, small: Parts, bits: int) -> None:
    per_word = WORD // bits
    inputs, outputs = shapes["qweight"][0] * per_word, shapes["qweight"][1]
    groups = shapes["scales"][0]
    expected = {
        "qzeros": (groups, outputs // per_word),
        "scales": (groups, outputs),
        "g_idx": (inputs,),
    }
    check_shapes(shapes, expected)
    check_groups("g_idx", small["g_idx"], groups, "scales")
