"""Modules under their former names, for one version: importing one warns and gives what it had."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]
MOVED = {
    "agreement": ["checkpoint.consistency"],
    "convert": ["export.convert"],
    "evaluate.failures": ["evaluate.scenes.failures"],
    "evaluate.measures": ["evaluate.scenes.measures"],
    "evaluate.runner": ["evaluate.scenes.runner"],
    "evaluate.samples": ["evaluate.scenes.samples"],
    "evaluate.tasks": ["evaluate.scenes.tasks"],
    "generation": ["engine.plan", "engine.hf", "engine.detokenize"],
    "layouts": ["export.llama"],
    "processing.images": ["media.image"],
    "processing.sources": ["media.source"],
    "processing.video": ["media.video"],
    "released": ["released_api", "released_auto"],
    "versions": ["releases"],
    "weight_files": ["checkpoint.weights"],
}


class _FormerModule(Loader):
    def __init__(self, names: Sequence[str]):
        self.names = names

    def create_module(self, spec: ModuleSpec) -> None:
        """Take Python's own kind of module."""

    def exec_module(self, module: ModuleType) -> None:
        def find(name: str) -> Any:
            for home in self.names:
                found = importlib.import_module(home)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = find  # type: ignore[method-assign]


class _FormerNames(MetaPathFinder):
    """Asked last, so only for modules that do not exist."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != _PACKAGE or name not in MOVED:
            return None
        homes = [f"{_PACKAGE}.{home}" for home in MOVED[name]]
        warnings.warn(
            f"{fullname} is now {' and '.join(homes)}; the old name goes with the next version.",
            DeprecationWarning,
            stacklevel=2,
        )
        return importlib.util.spec_from_loader(fullname, _FormerModule(homes))


def keep_former_names() -> None:
    """Let the former names be imported."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(_FormerNames())
