"""What PyTorch remembers beside a model."""

import platform
import subprocess
import sys

import pytest

from minicpmv.serve import memory
from minicpmv.serve.memory import bytes_of_place, dtype_of_place


def test_compiled_products_are_limited_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"LRU_CACHE_CAPACITY": "7"}
    monkeypatch.setattr(memory.os, "environ", environment)
    memory.limit_primitives()
    assert environment == {"LRU_CACHE_CAPACITY": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}


def test_a_small_model_on_a_cpu_is_served_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dtype_of_place("nano", "cpu", "auto", None) == "float32"
    assert dtype_of_place("nano", "cpu", "bfloat16", None) == "bfloat16"
    assert dtype_of_place("nano", "cpu", "auto", "int8") == "auto"
    half = bytes_of_place("nano", "cpu", "bfloat16", None)
    full = bytes_of_place("nano", "cpu", "auto", None)
    assert full - half == pytest.approx(23_000_000, rel=0.1)  # two bytes of each weight
    monkeypatch.setattr(memory, "_SMALL", 1_000_000)
    assert dtype_of_place("nano", "cpu", "auto", None) == "auto"


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
