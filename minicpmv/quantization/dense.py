"""Files of other quantisers, unpacked to dense weights while they are read.

No other library is needed; the model takes the memory of dense weights. A layer is unpacked when
its turn comes, so that there is never more in memory than the result and one layer.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import skeleton
from ..checkpoint.weights import WeightFiles
from .files import generation_config, linear_layers, own_config
from .waiting import Waiting

Parts = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


class Layout(NamedTuple):
    """How a file stores the weight of one layer.

    Fields:
        parts: names of its tensors, below the layer's.
        optional: more that may stand there.
        small: parts that `check` needs the numbers of.
        check: takes the shapes of all parts and the small ones; raises ValueError where they do not
            belong together.
        unpack: all parts to the dense weight (out, in), float32.
    """

    parts: tuple[str, ...]
    optional: tuple[str, ...]
    small: tuple[str, ...]
    check: Callable[[Shapes, Parts], None]
    unpack: Callable[[Parts], Tensor]


class DenseReader:
    """Reads quantised files as those of dense weights.

    Attributes:
        path, keywords: for the `from_pretrained` of transformers: no path, but a `state_dict` whose
            tensors are unpacked when they are asked for.
        missing, unexpected: tensors of the files, by which they are not a quantised model's.
    """

    path = None

    def __init__(
        self,
        model_class: Any,
        path: Any,
        keywords: dict[str, Any],
        layout: Layout,
        base: str = "model",
    ):
        self.keywords = own_config(model_class, path, keywords)
        config = self.keywords["config"]
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # what is loaded has no packed weights any more
        checkpoint = Checkpoint.at(path, keywords)
        self._layout, self._path = layout, str(path)
        self._lock = threading.Lock()
        self._weights = WeightFiles(checkpoint.safetensors_files(base))
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        try:
            names = self._plan(linear_layers(skeleton(model_class, config)))
        except BaseException:
            self._weights.close()
            raise
        self._dtype = self._wanted(config)
        self.keywords["dtype"] = self._dtype
        self.keywords["state_dict"] = {
            name: Waiting(self._read, name, name in self._packed or dtypes is not None)
            for name, dtypes in ((name, self._weights.dtypes.get(name)) for name in names)
        }
        if model_class.can_generate():
            self.keywords.setdefault("generation_config", generation_config(checkpoint, config))

    def _plan(self, layers: Mapping[str, str]) -> list[str]:
        """The dense tensors of the files; notes which parts make each."""
        shapes, layout = self._weights.shapes, self._layout
        everything = layout.parts + layout.optional
        self._packed: dict[str, dict[str, str]] = {}
        used: set[str] = set()
        for released in layers.values():
            found = {part: f"{released}.{part}" for part in everything}
            found = {part: name for part, name in found.items() if name in shapes}
            if not found:
                continue
            used |= set(found.values())
            absent = [f"{released}.{part}" for part in layout.parts if part not in found]
            if absent:
                self.missing += absent
                continue
            small = {part: self._weights[found[part]] for part in layout.small if part in found}
            try:
                layout.check({part: shapes[name] for part, name in found.items()}, small)
            except ValueError as error:
                raise ValueError(f"{released} in {self._path!r}: {error}") from error
            self._packed[f"{released}.weight"] = found
        rest = [name for name in shapes if name not in used]
        if not self.missing:
            suffixes = tuple(f".{part}" for part in everything)
            twice = [name for name in rest if name in self._packed]
            self.unexpected = [name for name in rest if name.endswith(suffixes)] + twice
        return [*rest, *self._packed]

    def _wanted(self, config: Any) -> torch.dtype:
        """The dtype that the model is loaded in, so that no second copy is needed to get there."""
        wanted = self.keywords.pop("torch_dtype", None)
        wanted = self.keywords.get("dtype", wanted)
        if wanted in (None, "auto"):
            stored = (dtype for dtype in self._weights.dtypes.values() if dtype is not None)
            wanted = config.dtype or next(stored, torch.float32)
        return getattr(torch, wanted) if isinstance(wanted, str) else wanted

    def _read(self, name: str) -> Tensor:
        """A tensor as the model has it. One at a time: transformers asks from several threads."""
        with self._lock:
            if name not in self._packed:
                return self._weights[name]
            parts = {part: self._weights[file] for part, file in self._packed[name].items()}
            return self._layout.unpack(parts).to(self._dtype)

    def finish(self, model: Any) -> list[Any]:
        """Close the files, and set what loading from a `state_dict` leaves out."""
        self._weights.close()
        model.name_or_path = model.config.name_or_path = self._path
        return []


def check_shapes(found: Shapes, expected: Shapes) -> None:
    """Raise ValueError for the first part of another shape."""
    for part, shape in expected.items():
        if part in found and tuple(found[part]) != tuple(shape):
            raise ValueError(f"{part} has shape {tuple(found[part])}, expected {tuple(shape)}.")


def check_groups(name: str, groups: Tensor, count: int, scales: str) -> None:
    """Raise ValueError where an input has no group."""
    least, most = int(groups.min()), int(groups.max())
    if least < 0 or most >= count:
        raise ValueError(f"{name} has the groups {least} to {most}; {scales} has {count}.")


def group_size_of(written: Mapping[str, Any], key: str, path: Any) -> int:
    """Inputs that share a scale; -1 for all of them.

    Raises:
        ValueError: it is none.
    """
    size = written.get(key)
    if not isinstance(size, int) or isinstance(size, bool) or (size != -1 and size < 1):
        raise ValueError(
            f"{str(path)!r} has {key} {size!r} in its quantization_config; expected a number of "
            "inputs, as 128, or -1 for all of them."
        )
    return size


def num_groups(inputs: int, size: int) -> int:
    """Groups of a row of weights; the last may be smaller."""
    return 1 if size == -1 else -(-inputs // size)
