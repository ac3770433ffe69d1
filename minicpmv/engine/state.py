"""Fingerprints of a model: whether what was computed with it before still holds."""

import hashlib
import sys
from itertools import chain
from typing import Any, NamedTuple, cast

import torch

from .protocols import CausalModel


class State(NamedTuple):
    """What a model was when it was looked at.

    Fields:
        structure: see `structure_of`.
        weights: changes with the weights, as in training, and with the adapters in use: keys,
            values and features computed before are not those of the model any more. What is written
            into the `data` of a parameter in place leaves no trace; `Engine.forget` is for that.
    """

    structure: tuple[Any, ...]
    weights: bytes


def structure_of(model: CausalModel) -> tuple[Any, ...]:
    """Changes where modules are replaced, or the model moves or gets another dtype."""
    return _structure_of(model, _modules_of(model))


def state_of(model: CausalModel) -> State:
    """Structure and weights; the modules are walked through once."""
    modules = _modules_of(model)
    structure = _structure_of(model, modules)
    of_modules = [module._parameters.values() for module in modules if module._parameters]
    parameters = [p for p in chain.from_iterable(of_modules) if p is not None]
    versions = sum([p._version for p in parameters if not p.is_inference()])
    places = [p.data_ptr() if type(p) is torch.nn.Parameter else id(p) for p in parameters]
    found: list[Any] = [structure, hash((*map(id, parameters), *places)), versions]
    if "peft" in sys.modules:
        for module in modules:
            if hasattr(module, "base_layer"):  # an adapter's
                names = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
                found.append([getattr(module, name, None) for name in names])
    return State(structure, hashlib.blake2b(repr(found).encode(), digest_size=16).digest())


def _structure_of(model: CausalModel, modules: list[torch.nn.Module]) -> tuple[Any, ...]:
    return id(model), model.dtype, model.device, hash(tuple(map(id, modules)))


def _modules_of(model: CausalModel) -> list[torch.nn.Module]:
    """Each module once, those that hold others first: `model.modules()`, which is many times
    slower because it makes up names.
    """
    modules = [cast(torch.nn.Module, model)]
    seen = set(map(id, modules))
    for module in modules:  # grows
        for child in module._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                modules.append(child)
    return modules
