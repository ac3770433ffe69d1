"""Types of tensors, as llama-quantize chooses them."""

import json

import pytest

from minicpmv.gguf.mixture import Geometry, file_order, fitting, tensor_types
from minicpmv.gguf.types import FILE_TYPES, TYPES

from ..helpers.ggml import FOLDER

MAPS = json.loads((FOLDER / "type_maps.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", MAPS["models"])
def test_every_tensor_has_the_recorded_type(model: str) -> None:
    recorded = MAPS["models"][model]
    numbers = recorded["geometry"]
    geometry = Geometry(
        num_layers=numbers["layers"],
        num_heads=numbers["heads"],
        num_kv_heads=numbers["kv_heads"],
        num_experts=numbers["experts"],
        architecture=numbers["arch"],
    )
    shapes = {name: tuple(reversed(sizes)) for name, sizes, _ in recorded["tensors"]}
    for place, file_type in enumerate(recorded["file_types"]):
        expected = {name: MAPS["codes"][codes[place]] for name, _, codes in recorded["tensors"]}
        found = tensor_types(shapes, FILE_TYPES[file_type], geometry)
        assert {name: type_.name for name, type_ in found.items()} == expected, file_type
        assert list(found) == list(expected), "the order of the file"


def test_layers_are_ordered_by_number() -> None:
    names = ["token_embd.weight", "blk.10.attn_q.weight", "blk.2.ffn_up.weight", "output.weight"]
    assert file_order(names) == [names[3], names[0], names[2], names[1]]


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 288, "Q5_0"),
        ("Q6_K", 96, "Q8_0"),
        ("IQ4_XS", 32, "IQ4_NL"),
        ("Q2_K", 100, "F16"),
        ("Q4_0", 100, "F16"),
    ],
)
def test_rows_that_do_not_suit_fall_back(name: str, width: int, expected: str) -> None:
    assert fitting(TYPES[name], width).name == expected


def test_importance_changes_the_first_layers() -> None:
    shapes = {f"blk.{i}.ffn_down.weight": (256, 256) for i in range(16)}
    geometry = Geometry(num_layers=16, num_heads=8, num_kv_heads=2)
    for name, without, given in (("Q4_0", "Q4_0", "Q4_1"), ("IQ4_XS", "Q5_K", "IQ4_XS")):
        for has_importance, first in ((False, without), (True, given)):
            found = tensor_types(shapes, FILE_TYPES[name], geometry, has_importance=has_importance)
            assert found["blk.1.ffn_down.weight"].name == first
            assert found["blk.2.ffn_down.weight"].name == FILE_TYPES[name].base.name
