"""GGUF files, read as a checkpoint of the model's own tensors.

What `minicpmv.gguf.reading` has put into `config.json` says where the files are. Tensors are read
one at a time, when transformers asks for them. On a CPU, quantised matrices stay in their bits:
those of Q4_0 and Q8_0 in the layout of our kernels, which holds them without a change (groups of 32
with a float16 scale), all others as they lie in the file, mapped into memory. What is read and not
kept is given back to the system, so that a file is never in memory twice. All else is widened to
the dtype of the model: norms, biases, tables of positions, matrices that were never quantised, and
experts that transformers joins to one tensor.

Without compiled kernels, and on other devices, everything is widened but, on a CPU, Q4_0 and Q8_0.
"""

import math
import threading
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import describe, differences, skeleton
from ..gguf.reading.model import METHOD, GGUFModel
from ..gguf.reading.recipes import Recipe
from ..gguf.types import SCALES, UNQUANTISED, GGMLType
from ..kernels.build import are_off, library, why_not
from ..kernels.gguf import repacked
from ..kernels.packing import TILE_ROWS, PackedWeight, pack_rows
from .files import generation_config, own_config
from .packed_config import PackedConfig, can_be_packed
from .packing import PackedReader
from .waiting import Waiting

BITS = {"Q4_0": 4, "Q8_0": 8}
_BLOCK = 1 << 22  # bytes that are packed at a time
_SCALES_AT_ONCE = 1 << 20  # of one look


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
        self._kept: dict[str, int | str] = {}  # by released name; the rest is widened
        self._waits_for_kernels = False
        self._check(model_class, config)
        packed = {}
        if not written.get("widened"):
            packed = self._plan(skeleton(model_class, config), keywords.get("device_map"))
        if packed:
            kind = "int4" if 4 in packed.values() else "int8"
            config.quantization_config = PackedConfig(kind, modules=packed).to_dict()
            super().__init__(model_class, path, self.keywords, config.quantization_config)
            config = self.keywords["config"]
        self.path = None
        self._lock = threading.Lock()
        self._dtype = _dtype(self.keywords, config)
        if self._waits_for_kernels:
            self._warn()
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.not_finite: list[str] = []
        self.keywords["dtype"] = self._dtype
        self.keywords.pop("torch_dtype", None)
        self.keywords["state_dict"] = {
            name: Waiting(self._read, name, name not in self._kept) for name in self._recipes
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

    def _plan(self, model: Any, place: Any) -> dict[str, int | str]:
        """Bits, or ggml's type, of the modules that stay packed, by their names."""
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
            if kind is None or kind in UNQUANTISED:
                continue
            if kind.name not in BITS and library() is None:
                self._waits_for_kernels = True
                continue
            packed[prefix + name] = self._kept[released] = BITS.get(kind.name, kind.name)
        return packed

    def _warn(self) -> None:
        """Say that there are no kernels for blocks, where they were not switched off."""
        if not are_off():
            size = sum(
                math.prod(recipe.shape) * self._dtype.itemsize
                for name, recipe in self._recipes.items()
                if name not in self._kept
            )
            warnings.warn(
                f"No compiled kernels: {why_not()}; weights of {str(self._model.file.path)!r} are "
                f"widened while they are read, and take {size / 1e9:.1f} GB. Install a C++ "
                "compiler to keep them packed; MINICPMV_KERNELS=off silences this.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _named(self) -> str:
        side = "" if self._model.mmproj is None else f" with {str(self._model.mmproj.path)!r}"
        release = self._model.release
        return f"{'a text model' if release is None else release.name}{side}"

    def _read(self, name: str) -> Tensor:
        """A tensor in the dtype of the model. One at a time: transformers asks from threads."""
        recipe: Recipe = self._recipes[name]
        kind = self._kept.get(name)
        with self._lock:
            if isinstance(kind, str):
                return self._blocks(name, recipe)
            if kind is not None:
                found = self._packed(name, recipe)
            else:
                found = torch.from_numpy(recipe.numbers()).to(self._dtype)
            recipe.release()
            return found

    def _blocks(self, name: str, recipe: Recipe) -> Tensor:
        """The bytes of a matrix, mapped from the file where no row moves."""
        blocks = recipe.blocks()
        assert recipe.type is not None
        if not _is_finite(blocks, recipe.type):
            self.not_finite.append(name)
        # A mapped file has been read by now. Of a table few rows are wanted, and what was moved is
        # not wanted again.
        if recipe.moves or name.endswith("embed_tokens.weight"):
            recipe.release()
        return torch.from_numpy(blocks)

    def _packed(self, name: str, recipe: Recipe) -> Tensor:
        """The bytes of a matrix in the order of our kernels.

        Raises:
            ValueError: it has a code that ggml does not write.
        """
        blocks, bits = torch.from_numpy(recipe.blocks()), self._kept[name]
        assert isinstance(bits, int)
        packed = PackedWeight.empty(bits, recipe.shape[0], recipe.shape[1])
        found = library()
        repack = _repacked if found is None else partial(repacked, found)
        are_finite, are_usual = repack(blocks, packed)
        if not are_usual:
            raise ValueError(
                f"{str(recipe.file.path)!r} has the code -128 in {recipe.names[0]!r}, "
                "which ggml does not write as Q8_0. Get the file again."
            )
        if not are_finite:
            self.not_finite.append(name)
        return packed.data

    def finish(self, model: Any) -> list[Any]:
        """Set what loading from a `state_dict` leaves out; see `PackedReader`."""
        path = str(self._model.file.path)
        model.name_or_path = model.config.name_or_path = path
        model.stored_as = self._model.stored_as
        return super().finish(model) if self._kept else []


def _repacked(blocks: Tensor, packed: PackedWeight) -> tuple[bool, bool]:
    """As `kernels.gguf.repacked`, by torch."""
    are_finite = are_usual = True
    step = max(1, _BLOCK // (TILE_ROWS * blocks.shape[1])) * TILE_ROWS
    for start in range(0, len(blocks), step):
        rows = blocks[start : start + step]
        groups = rows.unflatten(1, (packed.num_groups, -1))
        scales = groups[..., :2].contiguous().view(torch.float16).squeeze(2)
        codes = groups[..., 2:]
        if packed.bits == 4:
            codes = torch.cat([codes & 15, codes >> 4], dim=2)
        else:
            codes = codes.contiguous().view(torch.int8)
            are_usual = are_usual and not bool((codes == -128).any())
        are_finite = are_finite and bool(scales.isfinite().all())
        pack_rows(packed, start, codes.flatten(1), scales)
    return are_finite, are_usual


def _is_finite(blocks: np.ndarray, kind: GGMLType) -> bool:
    """Whether all scales are: those of float16 whose exponent has a bit that is not set."""
    halves = blocks.reshape(-1, kind.block_bytes).view("<u2")
    for start in range(0, len(halves), _SCALES_AT_ONCE):
        part = halves[start : start + _SCALES_AT_ONCE]
        for place in SCALES[kind.name]:
            if bool(((part[:, place // 2] & 0x7C00) == 0x7C00).any()):
                return False
    return True


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
