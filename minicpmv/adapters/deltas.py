"""What an adapter changes in the weights of its model, tensor by tensor."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import AdviceError
from .folder import PREFIX, AdapterFiles

_LORA = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")


@dataclass(frozen=True)
class _LowRank:
    """Factors of one layer: `down` (r, in), `up` (out, r); with DoRA its magnitudes (out,)."""

    down: torch.Tensor
    up: torch.Tensor
    scaling: float
    magnitude: torch.Tensor | None
    is_transposed: bool


class Deltas:
    """Changes by the names of the changed tensors, as adapters have them."""

    def __init__(self, whole: dict[str, torch.Tensor], low_rank: dict[str, _LowRank]):
        self._whole, self._low_rank = whole, low_rank

    @classmethod
    def read(cls, files: AdapterFiles, model: Any) -> "Deltas":
        """
        Args:
            model: without memory: names and shapes.

        Raises:
            ValueError: it is no LoRA adapter, does not fit the model, or is not whole.
        """
        fields = files.fields()
        kind = fields.get("peft_type")
        unknown = [name for name in _UNKNOWN if fields.get(name)]
        if kind != "LORA" or unknown:
            what = f"{kind} with {unknown[0]}" if kind == "LORA" else str(kind)
            raise AdviceError(
                f"The adapter {files.name!r} is {what}, which is not put into weights here. Load "
                "it beside its model with `adapter`, or merge it with PEFT."
            )
        tensors = files.tensors(model.config.model_type)
        files.check_parts(model, tensors)
        layers = {n.removesuffix(_LORA[0]) for n in tensors if n.endswith(_LORA[0])}
        low_rank = {}
        for layer in sorted(layers):
            factors = [tensors.pop(layer + end, None) for end in _LORA]
            bias = tensors.pop(f"{layer}.lora_B.bias", None)
            if factors[0] is None or factors[1] is None or bias is not None:
                raise ValueError(f"The adapter {files.name!r} lacks {layer}{_LORA[1]}.")
            scaling = _scaling(fields, layer, len(factors[0]), model)
            is_transposed = bool(fields.get("fan_in_fan_out"))
            low_rank[f"{layer}.weight"] = _LowRank(
                factors[0], factors[1], scaling, factors[2], is_transposed
            )
        left = [name for name in tensors if "lora_" in name]
        if left:
            raise AdviceError(
                f"The adapter {files.name!r} has {left[0]}, which is not put into weights here. "
                "Load it beside its model with `adapter`, or merge it with PEFT."
            )
        found = cls(tensors, low_rank)
        found._check(files.name, model)
        return found

    @property
    def names(self) -> set[str]:
        return {*self._whole, *self._low_rank}

    def changes(self, name: str) -> bool:
        return name in self._whole or name in self._low_rank

    def forget(self, name: str) -> None:
        """Leave a tensor as it is."""
        self._whole.pop(name, None)

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two tensors that are one in the model are so afterwards."""
        if first in self._low_rank or second in self._low_rank:
            return False
        ours, theirs = self._whole.get(first), self._whole.get(second)
        if ours is None or theirs is None:
            return ours is theirs
        return torch.equal(ours, theirs)

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The changed tensor, in the dtype that `weight` has."""
        found = self._whole.get(name)
        wide = weight.float() if found is None else found.float()
        factors = self._low_rank.get(name)
        if factors is not None:
            change = factors.up.float() @ factors.down.float() * factors.scaling
            wide = wide + (change.T if factors.is_transposed else change)
            if factors.magnitude is not None:
                norm = wide.norm(dim=1, keepdim=True)
                wide = wide * (factors.magnitude.float()[:, None] / norm)
        return wide.to(weight.dtype)

    def _check(self, name: str, model: Any) -> None:
        """
        Raises:
            ValueError: a shape is not that of the model's tensor.
        """
        shapes = {PREFIX + each: tuple(p.shape) for each, p in model.named_parameters()}
        if model.config.tie_word_embeddings:
            shapes[f"{PREFIX}lm_head.weight"] = tuple(model.get_input_embeddings().weight.shape)
        found = {each: tuple(tensor.shape) for each, tensor in self._whole.items()}
        for each, low in self._low_rank.items():
            outputs, inputs = len(low.up), low.down.shape[1]
            found[each] = (inputs, outputs) if low.is_transposed else (outputs, inputs)
        for each, shape in found.items():
            expected = shapes.get(each)
            if shape != expected:
                what = "no such tensor" if expected is None else f"{expected}"
                raise ValueError(
                    f"The adapter {name!r} belongs to another model: it changes "
                    f"{each.removeprefix(PREFIX)} of {shape}, and the model has {what}."
                )


# Settings that change more than `scaling * up @ down` says.
_UNKNOWN = ("lora_bias", "layer_replication", "alora_invocation_tokens", "megatron_config")


def _scaling(fields: dict[str, Any], layer: str, rank: int, model: Any) -> float:
    """What the product of a layer's factors is multiplied by."""
    name = layer.removeprefix(PREFIX)
    alpha = fields.get("lora_alpha", 8)
    patterns: dict[str, Any] = fields.get("alpha_pattern") or {}
    for known in (name, model.released_name(name)):
        found = [key for key in patterns if re.match(rf"(.*\.)?({key})$", known)]  # as PEFT does
        if found:
            alpha = patterns[found[0]]
            break
    return float(alpha) / (math.sqrt(rank) if fields.get("use_rslora") else rank)


__all__ = ["Deltas"]
