"""GGUF files, read as a checkpoint of the model's own tensors.

What `minicpmv.gguf.reading` has put into `config.json` says where the files are. Tensors are read
one at a time, when transformers asks for them, and widened to the dtype of the model.
"""

import threading
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import describe, differences, skeleton
from ..gguf.reading.model import METHOD, GGUFModel
from ..gguf.reading.recipes import Recipe
from .files import generation_config, own_config
from .packing import Waiting


class GgufReader:
    """Reads GGUF files as a checkpoint of full weights.

    Attributes:
        path, keywords: for the `from_pretrained` of transformers: no path, but tensors that are
            read when they are asked for.
        missing, unexpected: none; they are found, and told, when the reader is made.
        not_finite: released names of tensors with numbers that are not finite.

    Raises:
        ValueError: the tensors are not those of the model.
    """

    path = None

    def __init__(
        self, model_class: Any, path: Any, keywords: dict[str, Any], written: dict[str, Any]
    ):
        self.keywords = own_config(model_class, path, keywords)
        config = self.keywords["config"]
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        self._model = GGUFModel(written["model"], written["mmproj"])
        self._recipes = self._model.recipes()
        self._check(model_class, config)
        self._lock = threading.Lock()
        self._dtype = _dtype(self.keywords, config)
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.not_finite: list[str] = []
        self.keywords["dtype"] = self._dtype
        self.keywords.pop("torch_dtype", None)
        self.keywords["state_dict"] = {
            name: Waiting(self._read, name, None, self._dtype) for name in self._recipes
        }
        if model_class.can_generate():
            settings = generation_config(Checkpoint.at(path, keywords), config)
            self.keywords.setdefault("generation_config", settings)

    def _check(self, model_class: Any, config: Any) -> None:
        empty: Any = skeleton(model_class, config)
        prefix = "" if hasattr(empty, empty.base_model_prefix) else f"{empty.base_model_prefix}."
        expected = {
            empty.released_name(prefix + name): tuple(parameter.shape)
            for name, parameter in empty.named_parameters()
        }
        found = {name: recipe.shape for name, recipe in self._recipes.items()}
        if config.model_type == "mixtral":  # transformers joins the experts
            joined = [name for name in expected if ".experts." in name or ".mlp.gate." in name]
            for name in joined:
                del expected[name]
            found = {n: s for n, s in found.items() if ".block_sparse_moe." not in n}
        problems = describe(*differences(expected, found))
        if problems:
            raise ValueError(
                f"The tensors of {str(self._model.file.path)!r} are not those of "
                f"{self._named()}: {'; '.join(problems)}. Get the file again, or convert the model "
                "anew."
            )

    def _named(self) -> str:
        side = "" if self._model.mmproj is None else f" with {str(self._model.mmproj.path)!r}"
        release = self._model.release
        return f"{'a text model' if release is None else release.name}{side}"

    def _read(self, name: str) -> Tensor:
        """A tensor in the dtype of the model. One at a time: transformers asks from threads."""
        recipe: Recipe = self._recipes[name]
        with self._lock:
            numbers = torch.from_numpy(recipe.numbers())
            return numbers.to(self._dtype)

    def finish(self, model: Any) -> list[Any]:
        """Set what loading from a `state_dict` leaves out."""
        path = str(self._model.file.path)
        model.name_or_path = model.config.name_or_path = path
        model.stored_as = self._model.stored_as
        return []


def _dtype(keywords: dict[str, Any], config: Any) -> torch.dtype:
    wanted = keywords.get("dtype", keywords.get("torch_dtype"))
    if wanted in (None, "auto"):
        wanted = config.dtype or torch.float32
    found = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    assert isinstance(found, torch.dtype), found
    return found


__all__ = ["METHOD", "GgufReader"]
