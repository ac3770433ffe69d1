"""Whole models of packed weights: made from full weights while they are read, and read again.

Full weights are shown to transformers as if their files held packed ones: each tensor is read when
its turn comes, quantised a block of rows at a time, and given back to the system before the next.
So there is one way of loading, and at no moment more memory than the result and one tensor.
"""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import skeleton
from ..checkpoint.weights import WeightFiles
from ..kernels.packing import PackedWeight
from .files import check_experts, generation_config, own_config
from .packed_config import PackedConfig, packed_layer
from .quantiser import quantise_rows
from .waiting import Waiting

Mismatch = tuple[str, torch.Size, torch.Size]


class PackedReader:
    """Reads a checkpoint whose files hold packed weights; transformers does the most.

    Attributes:
        path, keywords: for the `from_pretrained` of transformers.
        missing, unexpected: none, since transformers finds them.
        not_finite: released names of tensors with numbers that are not finite.
    """

    def __init__(self, model_class: Any, path: Any, keywords: dict[str, Any], written: Any):
        self.path: Any = path
        _check_places(path, keywords.get("device_map"))
        self.keywords = own_config(model_class, path, keywords)
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.not_finite: list[str] = []
        packed = written if isinstance(written, PackedConfig) else PackedConfig.from_dict(written)
        model = skeleton(model_class, self.keywords["config"])
        self._shapes = _packed_shapes(model, packed.kinds_of(model))

    def finish(self, model: Any) -> list[Mismatch]:
        """Settle what transformers leaves open in a model of quantised weights: it casts some of
        the others, and takes any shape.

        Returns:
            Parameters of another shape than the model's: name, found, expected.
        """
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dtype != model.config.dtype:
                parameter.data = parameter.data.to(model.config.dtype)
        return [
            (name, parameter.shape, self._shapes[name])
            for name, parameter in model.named_parameters()
            if parameter.shape != self._shapes[name]
        ]


class PackingReader(PackedReader):
    """Quantises full weights while they are read."""

    def __init__(self, model_class: Any, path: Any, keywords: dict[str, Any], asked: PackedConfig):
        _check_places(path, keywords.get("device_map"))
        keywords = {**keywords}
        del keywords["quantization_config"]
        if keywords.get("gguf_file"):
            raise ValueError(f"{keywords['gguf_file']!r} is quantised already; leave quantize out.")
        self.keywords = own_config(model_class, path, keywords)
        config = self.keywords["config"]
        model = skeleton(model_class, config)
        check_experts(model)
        checkpoint = Checkpoint.at(path, self.keywords)
        self._weights = WeightFiles(checkpoint.weight_files())
        self._lock = threading.Lock()
        self._path = str(path)
        try:
            config.quantization_config = self._plan(model, asked).to_dict()
        except BaseException:
            self._weights.close()
            raise
        super().__init__(model_class, path, self.keywords, config.quantization_config)
        self.path = None
        self.keywords["state_dict"] = {
            name: Waiting(self._read, name, name not in self._bits and dtype is not None)
            for name, dtype in self._weights.dtypes.items()
        }
        if model_class.can_generate():
            self.keywords.setdefault("generation_config", generation_config(checkpoint, config))
        self.keywords["dtype"] = self._dtype(config)

    def _plan(self, model: Any, asked: PackedConfig) -> PackedConfig:
        """What is packed of this checkpoint: modules whose weights are in its files as they should.

        The rest is loaded in full, and named as when nothing is quantised.
        """
        prefix = "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
        self._bits: dict[str, int] = {}
        shapes = self._weights.shapes
        absent = []
        for module, bits in asked.bits_of(model).items():
            ours = f"{prefix}{module}.weight"
            expected = tuple(model.get_submodule(module).weight.shape)
            found = [
                name
                for name in dict.fromkeys((model.released_name(ours), ours, f"{module}.weight"))
                if shapes.get(name) == expected and self._weights.dtypes[name] is not None
            ]
            self._bits |= dict.fromkeys(found, bits)
            if not found:
                absent.append(module)
        if model.config.tie_word_embeddings:
            absent = [
                module for module in absent if model.get_submodule(module) not in _ends(model)
            ]
        parts = asked.resolved(model.config)  # a file says all, whatever is usual later
        return PackedConfig(asked.format, parts, [*asked.dense, *absent])

    def _dtype(self, config: Any) -> torch.dtype:
        wanted = self.keywords.get("dtype", self.keywords.pop("torch_dtype", None))
        if wanted in (None, "auto"):
            stored = (dtype for dtype in self._weights.dtypes.values() if dtype is not None)
            wanted = config.dtype or next(stored, torch.float32)
        return getattr(torch, wanted) if isinstance(wanted, str) else wanted

    def _read(self, name: str) -> Tensor:
        """A tensor as the model keeps it. One at a time: transformers asks from several threads."""
        bits = self._bits.get(name)
        with self._lock, self._weights.mapped(name) as tensor:
            if bits is None:
                return tensor
            packed = PackedWeight.empty(bits, *tensor.shape)
            if not quantise_rows(packed, 0, tensor):
                self.not_finite.append(name)
            return packed.data

    def finish(self, model: Any) -> list[Mismatch]:
        """The same; and close the files, and set what loading from a `state_dict` leaves out."""
        self._weights.close()
        model.name_or_path = model.config.name_or_path = self._path
        return super().finish(model)


def _check_places(path: Any, device_map: Any) -> None:
    """Refuse weights that wait on the disk.

    Raises:
        ValueError: `device_map` names it.
    """
    if isinstance(device_map, dict) and "disk" in map(str, device_map.values()):
        raise ValueError(
            f"device_map leaves weights of {str(path)!r} on the disk, and packed ones are mapped "
            'from their files instead. Write them with "minicpmv quantize", and load the folder '
            "without device_map."
        )


def _ends(model: Any) -> tuple[nn.Module, nn.Module]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def _packed_shapes(model: nn.Module, kinds: dict[str, int | str]) -> dict[str, torch.Size]:
    """The shape of every parameter once modules are packed."""
    shapes = {name: parameter.shape for name, parameter in model.state_dict().items()}
    for name, kind in kinds.items():
        layer = packed_layer(model.get_submodule(name), kind)
        shapes[f"{name}.weight"] = layer.weight.shape
    return shapes


__all__ = ["PackedReader", "PackingReader"]
