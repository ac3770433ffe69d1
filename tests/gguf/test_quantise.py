"""Blocks are those of ggml, byte for byte."""

import numpy as np
import pytest

from minicpmv.gguf.header import Outline
from minicpmv.gguf.quantise import quantise, quantised
from minicpmv.gguf.types import TYPES

from ..helpers.ggml import cases, recorded, weighted


@pytest.mark.parametrize("name", sorted(TYPES.keys() - {"F32"}))
def test_writes_what_ggml_writes(name: str) -> None:
    for case in cases("q", name):
        found = quantise(recorded()[f"in.{case}"], TYPES[name])
        assert np.array_equal(found, recorded()[f"q.{case}.{name}"]), case


@pytest.mark.parametrize("name", sorted(weighted().keys() - {"in", "importance"}))
def test_importance_is_used_as_ggml_uses_it(name: str) -> None:
    values, importance = weighted()["in"], weighted()["importance"]
    assert np.array_equal(quantise(values, TYPES[name], importance), weighted()[name])


def test_every_expert_has_its_importance() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 256)).astype(np.float32)
    importance = np.random.default_rng(1).random((2, 256)).astype(np.float32)
    outline = Outline("w", values.shape, TYPES["Q4_K"])
    rows = values.reshape(6, 256)
    found = list(quantised(lambda start, stop: rows[start:stop], outline, importance))
    apart = [quantise(values[i], TYPES["Q4_K"], importance[i]) for i in range(2)]
    assert np.array_equal(np.concatenate(found), np.concatenate(apart))


def test_importance_of_other_columns_is_refused() -> None:
    values = np.zeros((2, 256), np.float32)
    with pytest.raises(ValueError, match=r"rows of 256 values, and its importance is \[128\]"):
        quantise(values, TYPES["Q4_K"], np.ones(128, np.float32), name="w")


def test_zeros_of_both_signs_are_one_block() -> None:
    """The first value of greatest size, with its sign, is 0 in a block of zeros, never -0."""
    zeros = np.zeros((1, 32), np.float32)
    for name in ("Q4_0", "Q5_0"):
        assert np.array_equal(quantise(-zeros, TYPES[name]), quantise(zeros, TYPES[name]))


def test_pieces_are_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=(700, 416)).astype(np.float32)
    outline = Outline("w", (700, 416), TYPES["Q8_0"])
    pieces = list(quantised(lambda start, stop: values[start:stop], outline))
    assert len(pieces) > 1
    assert np.array_equal(np.concatenate(pieces), quantise(values[:], TYPES["Q8_0"]))
    assert np.array_equal(pieces[0], quantise(values[: len(pieces[0])], TYPES["Q8_0"]))


@pytest.mark.parametrize("name", ["F16", "Q8_0"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    values = np.zeros((4, 32), np.float32)
    values[2, 7] = value
    with pytest.raises(ValueError, match=rf"'blk.0.w' has {value} in row 12, column 7"):
        quantise(values, TYPES[name], name="blk.0.w", first_row=10)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0"])
def test_values_too_large_for_the_type_are_refused(name: str) -> None:
    values = np.zeros((4, 32), np.float32)
    values[1, 3] = 3.4e38
    with pytest.raises(ValueError, match=rf"'w' has 3.4e\+38 in row 1, .* too large for {name}"):
        quantise(values, TYPES[name], name="w")
