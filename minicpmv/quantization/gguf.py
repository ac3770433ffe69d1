"""GGUF files, read as a checkpoint of the model's own tensors.

What `minicpmv.gguf.reading` has put into `config.json` says where the files are. Tensors are read
one at a time, when transformers asks for them. On a CPU, matrices of Q4_0 and Q8_0 stay in their
bits, which the layout of our kernels holds without a change: groups of 32 with a float16 scale.
Others are widened to the dtype of the model.
"""

import threading
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import describe, differences, skeleton
from ..gguf.reading.model import METHOD, GGUFModel
from ..gguf.reading.recipes import Recipe
from ..kernels.packing import GROUP, TILE_ROWS, PackedWeight, pack_rows
from .files import generation_config, own_config
from .packed_config import PackedConfig, can_be_packed
from .packing import PackedReader
from .waiting import Waiting

BITS = {"Q4_0": 4, "Q8_0": 8}
_BLOCK = 1 << 22  # bytes that are packed at a time


class GgufReader(PackedReader):
    """Reads GGUF files as a checkpoint of packed and full weights.

    Attributes:
        path, keywords: for the `from_pretrained` of transformers: no path, but tensors that are
            read when they are asked for.
        missing, unexpected: none; they are found, and told, when the reader is made.
        not_finite: released names of tensors with numbers that are not finite.

    Raises:
        ValueError: the tensors are not those of the model.
    """

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
        packed = self._plan(skeleton(model_class, config), keywords.get("device_map"))
        if packed:
            kind = "int4" if 4 in packed.values() else "int8"
            config.quantization_config = PackedConfig(kind, modules=packed).to_dict()
            super().__init__(model_class, path, self.keywords, config.quantization_config)
            config = self.keywords["config"]
        self.path = None
        self._lock = threading.Lock()
        self._dtype = _dtype(self.keywords, config)
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.not_finite: list[str] = []
        self.keywords["dtype"] = self._dtype
        self.keywords.pop("torch_dtype", None)
        self.keywords["state_dict"] = {
            name: Waiting(self._read, name, self._bits.get(name) is None) for name in self._recipes
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

    def _plan(self, model: Any, place: Any) -> dict[str, int]:
        """Bits of the modules that stay packed, by their names."""
        self._bits: dict[str, int] = {}
        if place is not None and str(place) != "cpu":
            return {}
        table, packed = model.get_input_embeddings(), {}
        is_tied = bool(model.config.tie_word_embeddings)
        prefix = "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
        for name, module in model.named_modules():
            if not can_be_packed(module, table):
                continue
            if module is model.get_output_embeddings() and is_tied:
                name_of_weight = f"{prefix}{_name_of(model, table)}.weight"
            else:
                name_of_weight = f"{prefix}{name}.weight"
            released = model.released_name(name_of_weight)
            recipe = self._recipes.get(released)
            kind = recipe.type if recipe is not None and recipe.can_stay else None
            if kind is not None and kind.name in BITS:
                packed[prefix + name] = self._bits[released] = BITS[kind.name]
        return packed

    def _named(self) -> str:
        side = "" if self._model.mmproj is None else f" with {str(self._model.mmproj.path)!r}"
        release = self._model.release
        return f"{'a text model' if release is None else release.name}{side}"

    def _read(self, name: str) -> Tensor:
        """A tensor in the dtype of the model. One at a time: transformers asks from threads."""
        recipe: Recipe = self._recipes[name]
        with self._lock:
            if name in self._bits:
                return self._packed(name, recipe)
            numbers = torch.from_numpy(recipe.numbers())
            return numbers.to(self._dtype)

    def _packed(self, name: str, recipe: Recipe) -> Tensor:
        """The bytes of a matrix in the order of our kernels.

        Raises:
            ValueError: it has a code that ggml does not write.
        """
        blocks, bits = recipe.blocks(), self._bits[name]
        packed = PackedWeight.empty(bits, recipe.shape[0], recipe.shape[1])
        step = max(1, _BLOCK // (TILE_ROWS * blocks.shape[1])) * TILE_ROWS
        for start in range(0, len(blocks), step):
            rows = torch.from_numpy(blocks[start : start + step].copy())
            groups = rows.unflatten(1, (-1, rows.shape[1] // (recipe.shape[1] // GROUP)))
            scales = groups[..., :2].contiguous().view(torch.float16).squeeze(2)
            codes = groups[..., 2:]
            if bits == 4:
                codes = torch.cat([codes & 15, codes >> 4], dim=2)
            else:
                codes = codes.contiguous().view(torch.int8)
                if bool((codes == -128).any()):
                    raise ValueError(
                        f"{str(recipe.file.path)!r} has the code -128 in {recipe.names[0]!r}, "
                        "which ggml does not write as Q8_0. Get the file again."
                    )
            if not bool(scales.isfinite().all()):
                self.not_finite.append(name)
            pack_rows(packed, start, codes.flatten(1), scales)
        return packed.data

    def finish(self, model: Any) -> list[Any]:
        """Set what loading from a `state_dict` leaves out; see `PackedReader`."""
        path = str(self._model.file.path)
        model.name_or_path = model.config.name_or_path = path
        model.stored_as = self._model.stored_as
        return super().finish(model) if self._bits else []


def _name_of(model: Any, wanted: Any) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _dtype(keywords: dict[str, Any], config: Any) -> torch.dtype:
    wanted = keywords.get("dtype", keywords.get("torch_dtype"))
    if wanted in (None, "auto"):
        wanted = config.dtype or torch.float32
    found = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    assert isinstance(found, torch.dtype), found
    return found


__all__ = ["METHOD", "GgufReader"]
