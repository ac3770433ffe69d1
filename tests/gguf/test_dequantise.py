"""Numbers read back from blocks are those of ggml, bit for bit."""

import numpy as np
import pytest

from minicpmv.gguf.dequantise import dequantise
from minicpmv.gguf.types import TYPES

from ..helpers.ggml import cases, recorded


@pytest.mark.parametrize("name", sorted(TYPES.keys() - {"F32"}))
def test_reads_what_ggml_wrote(name: str) -> None:
    for case in cases("dq", name):
        expected = recorded()[f"dq.{case}.{name}"]
        found = dequantise(recorded()[f"q.{case}.{name}"][: len(expected)], TYPES[name])
        assert found.dtype == np.float32
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32)), case


def test_shape_is_given_to_the_result() -> None:
    blocks = recorded()["q.normal_64x256.Q8_0"]
    whole = dequantise(blocks, TYPES["Q8_0"])
    assert np.array_equal(dequantise(blocks, TYPES["Q8_0"], (2, 3, 256)).reshape(6, 256), whole)
    with pytest.raises(ValueError, match=r"6 rows of 256 values do not fill the shape \[7, 256\]"):
        dequantise(blocks, TYPES["Q8_0"], (7, 256))


def test_refuses_parts_of_blocks() -> None:
    with pytest.raises(ValueError, match="multiple of 34 bytes"):
        dequantise(np.zeros((2, 33), np.uint8), TYPES["Q8_0"])
