"""What PyTorch remembers beside a model."""

import pytest

from minicpmv.serve import memory


def test_compiled_products_are_limited_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"LRU_CACHE_CAPACITY": "7"}
    monkeypatch.setattr(memory.os, "environ", environment)
    memory.limit_primitives()
    assert environment == {"LRU_CACHE_CAPACITY": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
