"""AutoAWQ files in the layout GEMM, unpacked to dense weights while they are read.

Per linear layer of `out` x `in` weights of 4 bits, in groups of inputs:

    qweight  (in, out / 8)      int32, eight outputs in a word: 0, 2, 4, 6, 1, 3, 5, 7 from the
                                lowest bits on
    qzeros   (groups, out / 8)  int32, the zero itself, in the same order
    scales   (groups, out)

    weight[o, i] = scales[g, o] * (q[i, o] - zero[g, o]), with g = i // group_size
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .dense import DenseReader, Layout, Parts, Shapes, check_shapes, group_size_of, num_groups
from .words import unpack_words

PACKED = ("qweight", "qzeros", "scales")
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output at each place of a word
_PLACES = tuple(ORDER.index(output) for output in range(8))


class AwqReader(DenseReader):
    """Reads an AutoAWQ checkpoint as one of dense weights."""

    def __init__(self, model_class: Any, path: Any, keywords: dict[str, Any], written: Any):
        bits = written.get("bits", written.get("w_bit", 4))
        layout = str(written.get("version") or written.get("format") or "gemm").lower()
        if bits != 4 or layout != "gemm":
            raise ValueError(
                f"{str(path)!r} has AWQ weights of {bits} bits in the layout {layout!r}; read are "
                "4 bits in the layout 'gemm'. Take such a file, or the full weights."
            )
        key = "group_size" if "group_size" in written else "q_group_size"
        size = group_size_of(written, key, path)
        rules = Layout(
            PACKED, (), (), partial(_check, size=size), lambda parts: unpack(**parts, size=size)
        )
        super().__init__(model_class, path, keywords, rules)


def unpack(qweight: Tensor, qzeros: Tensor, scales: Tensor, size: int) -> Tensor:
    """The dense weight, (out, in), float32; `size` inputs share a scale, -1: all.

    Raises:
        ValueError: the shapes do not belong together.
    """
    parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
    _check({name: tuple(part.shape) for name, part in parts.items()}, {}, size)
    codes, zeros = _in_order(qweight), _in_order(qzeros)
    inputs = len(codes)
    places = torch.arange(inputs) // (inputs if size == -1 else size)
    return (scales.float()[places] * (codes - zeros[places])).t().contiguous()


def _in_order(words: Tensor) -> Tensor:
    return unpack_words(words, 4, 1).unflatten(1, (-1, 8))[:, :, list(_PLACES)].flatten(1)


def _check(shapes: Shapes, small: Parts, size: int) -> None:
    inputs, words = shapes["qweight"]
    groups = num_groups(inputs, size)
    check_shapes(shapes, {"qzeros": (groups, words), "scales": (groups, 8 * words)})
