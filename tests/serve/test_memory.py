"""What PyTorch remembers beside a model."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from minicpmv import load
from minicpmv.precision import dtype_name
from minicpmv.serve import memory, own
from minicpmv.serve.memory import bytes_of_place, is_small
from minicpmv.serve.settings import ServeSettings

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"


def test_compiled_products_are_limited_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"LRU_CACHE_CAPACITY": "7"}
    monkeypatch.setattr(memory.os, "environ", environment)
    memory.limit_primitives()
    assert environment == {"LRU_CACHE_CAPACITY": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}


@pytest.mark.parametrize(
    ("asked", "is_invariant", "expected"),
    [
        ({}, True, "what load takes"),
        ({}, False, "float32"),
        ({"dtype": "bfloat16"}, False, "bfloat16"),
        ({"quantize": "int8"}, False, "what load takes"),
    ],
)
def test_a_small_model_is_served_in_float32_where_narrower_numbers_depend_on_others(
    asked: dict[str, str], is_invariant: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if expected == "what load takes":
        expected = dtype_name(load("nano", "cpu", progress=False, **asked).model.dtype)
    monkeypatch.setattr(own, "is_invariant", lambda model: is_invariant)
    with own.OwnBackend(ServeSettings(device="cpu", **asked))._load("nano") as chat:
        assert dtype_name(chat.model.dtype) == expected
        answer = chat.ask(
            "What colour is the star?", [Image.open(SCENE)], sampling=False, num_beams=1
        )
        assert answer == "purple"


def test_memory_of_a_small_model_is_counted_as_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    half = bytes_of_place("nano", "cpu", "bfloat16", None)
    full = bytes_of_place("nano", "cpu", "auto", None)
    assert full - half == pytest.approx(23_000_000, rel=0.1)  # two bytes of each weight
    assert is_small("nano", "cpu")
    monkeypatch.setattr(memory, "_SMALL", 1_000_000)
    assert not is_small("nano", "cpu")


_FAULTS = """
import ctypes, resource, sys
from minicpmv.serve.memory import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("no glibc")
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(20 << 20, np.uint8), np.ones(20 << 20, np.uint8)
before = faults()
for _ in range(10):
    np.ones(20 << 20, np.uint8), np.ones(20 << 20, np.uint8)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc")
def test_freed_memory_is_used_again() -> None:
    """20 MiB are 5,120 pages, which the system would have to give once more each time."""
    found = {
        mode: int(subprocess.run([sys.executable, "-c", _FAULTS, mode], capture_output=True,
                                 text=True, check=True).stdout)
        for mode in ("kept", "given back")
    }  # fmt: skip
    assert found["kept"] < 100 < found["given back"]
