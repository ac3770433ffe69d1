"""Fingerprints of a model: whether what was computed with it before still holds."""

import hashlib
import sys
from typing import Any

import torch

from .protocols import CausalModel


def structure_of(model: CausalModel) -> tuple[Any, ...]:
    """Changes where modules are replaced, or the model moves or gets another dtype."""
    modules: Any = model.modules()  # type: ignore[attr-defined]
    return id(model), model.dtype, model.device, hash(tuple(map(id, modules)))


def weights_of(model: CausalModel) -> bytes:
    """Changes with the weights, as in training, and with the adapters in use: keys, values and
    features computed before are not those of the model any more.

    What is written into the `data` of a parameter in place leaves no trace; `Engine.forget` is for
    that.
    """
    parameters = list(model.parameters())
    versions = sum(p._version for p in parameters if not p.is_inference())
    places = [p.data_ptr() if type(p) is torch.nn.Parameter else id(p) for p in parameters]
    found: list[Any] = [structure_of(model), hash((*map(id, parameters), *places)), versions]
    if "peft" in sys.modules:
        modules: Any = model.modules()  # type: ignore[attr-defined]
        for module in modules:
            if hasattr(module, "base_layer"):  # an adapter's
                names = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
                found.append([getattr(module, name, None) for name in names])
    return hashlib.blake2b(repr(found).encode(), digest_size=16).digest()
