"""Adapters: which parts of a model are trained, and folders that hold exactly those.

`apply_parts(model, parts, lora)` before training, `save_adapter(...)` after it; `attach(model,
folder)` reads the folder again, and `load(MODEL, adapter=folder)` does so for a `Chat`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folder import base_of, is_adapter
    from .load import attach
    from .parts import LoraSettings, Parts, apply_parts
    from .save import save_adapter

_HOMES = {
    "LoraSettings": "parts",
    "Parts": "parts",
    "apply_parts": "parts",
    "attach": "load",
    "base_of": "folder",
    "is_adapter": "folder",
    "save_adapter": "save",
}

__all__ = [
    "LoraSettings",
    "Parts",
    "apply_parts",
    "attach",
    "base_of",
    "is_adapter",
    "save_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minicpmv.adapters' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
