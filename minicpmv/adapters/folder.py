"""The files of an adapter: where they lie, which model they belong to, and their tensors."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import read_json_file
from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import listed
from ..checkpoint.weights import WeightFiles
from ..integrations.peft import modules_meant, our_tensor_name

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
SETTINGS = "training_settings.json"
PREFIX = "base_model.model."
# What trainers that write parameters as they are leave in their names.
_IN_TRAINING = re.compile(r"\.(?:modules_to_save\.)?default(?=\.|$)")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter on this disk, fetched from the hub where it has to be.

    Fields:
        name: as it was given.
        config, weights: its files.
        settings: what this package has written beside them; empty for adapters of others.
    """

    name: str
    config: Path
    weights: Path
    settings: dict[str, Any]

    @classmethod
    def find(cls, adapter: str | Path) -> "AdapterFiles":
        """
        Raises:
            OSError: there is no such folder or repository, or a file is missing or damaged.
            ValueError: a file is not what its name says.
        """
        name = str(adapter)
        path = Path(name)
        if path.exists() and not path.is_dir():
            raise ValueError(f"The adapter {name!r} is a file; give the folder that holds it.")
        checkpoint = Checkpoint.find(path if path.is_dir() else name)
        config = checkpoint.find_file(CONFIG)
        if config is None:
            what = "It is a whole model: load it by itself." if is_whole(checkpoint) else ""
            raise FileNotFoundError(
                f"{name!r} has no {CONFIG}, so it is no adapter. {what}".strip()
            )
        found = [file for file in map(checkpoint.find_file, WEIGHTS) if file is not None]
        if not found:
            raise FileNotFoundError(
                f"The adapter {name!r} has no {WEIGHTS[0]}. Its training may have been interrupted."
            )
        settings = checkpoint.find_file(SETTINGS)
        return cls(name, config, found[0], {} if settings is None else read_json_file(settings))

    def fields(self) -> dict[str, Any]:
        """Of `adapter_config.json`."""
        return read_json_file(self.config)

    def base(self) -> str:
        """The model that it was trained on: a folder, or a name on the hub.

        Raises:
            ValueError: it does not say.
        """
        name = self.fields().get("base_model_name_or_path") or self.settings.get("base_model")
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{CONFIG} of {self.name!r} does not name its model. Give the model, and this as "
                "its adapter."
            )
        return name

    def revision(self) -> str | None:
        """Of its model on the hub."""
        revision = self.fields().get("revision")
        return revision if isinstance(revision, str) and revision else None

    def tensors(self, model_type: str) -> dict[str, torch.Tensor]:
        """Its tensors by our names, such as `base_model.model.lm_head.weight`.

        Raises:
            OSError: the file is damaged or cut short.
            ValueError: two tensors have one name, or one has values that are not finite.
        """
        with WeightFiles([self.weights]) as files:
            names = {name: our_name(name, model_type) for name in files.shapes}
            if len(set(names.values())) != len(names):
                raise ValueError(f"{str(self.weights)!r} holds two tensors of one name.")
            tensors = {ours: files[name].clone() for name, ours in names.items()}
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(
                    f"The adapter {self.name!r} has values that are not finite in "
                    f"{name.removeprefix(PREFIX)}, so its training failed. Take an earlier "
                    "checkpoint of it."
                )
        return tensors

    def whole_parts(self, model: Any) -> dict[str, list[str]]:
        """Tensors that take the place of the model's, by the entry of `modules_to_save`.

        Args:
            model: the base, without the adapter; one without memory will do.

        Raises:
            ValueError: the model has no such module.
        """
        entries = self.fields().get("modules_to_save") or []
        parts = {}
        for entry in [entries] if isinstance(entries, str) else entries:
            modules = modules_meant(str(entry), model)
            if not modules:
                raise ValueError(
                    f"{CONFIG} of the adapter {self.name!r} names {entry!r} in modules_to_save, "
                    "and the model has no such module. Give the model that it was trained on."
                )
            parts[str(entry)] = [
                f"{PREFIX}{module}.{name}"
                for module in modules
                for name, _ in model.get_submodule(module).named_parameters()
            ]
        return parts

    def check_parts(self, model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """
        Raises:
            ValueError: `tensors`, which are its own, lack some of `whole_parts`.
        """
        for entry, names in self.whole_parts(model).items():
            missing = [name.removeprefix(PREFIX) for name in names if name not in tensors]
            if missing:
                raise ValueError(
                    f"The adapter {self.name!r} lacks tensors of {entry!r}, which its "
                    f"modules_to_save names: {listed(missing)}. Copy it again, or take an earlier "
                    "checkpoint of it."
                )


def our_name(name: str, model_type: str) -> str:
    """Our name of a tensor in an adapter's file, whoever wrote it."""
    name = _IN_TRAINING.sub("", name)
    if not name.startswith(PREFIX):
        name = f"{PREFIX}{name}"
    return our_tensor_name(name, model_type)


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether there is a model of its own, with or without an adapter's file beside it."""
    return checkpoint.find_file("config.json") is not None


def is_adapter(name: str | Path) -> bool:
    """Whether a folder holds an adapter and no model of its own. No request is sent."""
    folder = Path(name)
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(adapter: str | Path) -> str:
    """The model that an adapter was trained on, as its files name it.

    Raises:
        OSError: there is no such adapter.
        ValueError: its files do not say.
    """
    return AdapterFiles.find(adapter).base()


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["CONFIG", "PREFIX", "SETTINGS", "AdapterFiles", "base_of", "is_adapter"]
