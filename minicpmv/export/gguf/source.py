"""The checkpoint that is written as GGUF: its tensors under their released names, piece by piece.

Nothing is built and no more than one tensor is mapped at a time. An adapter's changes are applied
as the tensors are read, in float32, rounded once to the dtype of the file, as by `minicpmv merge`.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...adapters.base import adapter_base, naming_adapter
from ...adapters.deltas import Deltas
from ...adapters.folder import AdapterFiles, is_adapter
from ...adapters.load import check_fits
from ...adapters.settings import check_settings, use_settings
from ...checkpoint.consistency import find_mismatches
from ...checkpoint.files import read_json_file
from ...checkpoint.headers import Shape
from ...checkpoint.hub import SMALL_FILES, Checkpoint
from ...checkpoint.names import location_of
from ...checkpoint.tensors import listed, skeleton
from ...checkpoint.weights import WeightFiles
from ...errors import ArgumentError
from ...loader import (
    MODEL_CLASSES,
    load_processor,
    model_config,
    read_config,
    readable_errors,
)
from ...releases import model_type_of
from ..tensors import HEAD, our_name, tensors_of

_PIECE_BYTES = 64 << 20  # of a tensor in float32 at a time


class NotFiniteError(ValueError):
    """A tensor of the checkpoint holds NaN or infinity."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file to write.

    Fields:
        shape: as in torch, slowest axis first.
        read: gives its numbers in pieces along the first axis, in the dtype of the checkpoint.
    """

    name: str
    shape: Shape
    read: Callable[[], Iterator[torch.Tensor]]


class Source:
    """A checkpoint, with or without an adapter. Use it with `with`.

    Attributes:
        name: as it was given; label: for names of files.
        fields: of config.json; generation: of generation_config.json.
        config: ours; processor: with the tokenizer.
        shapes: of every tensor by its released name.
        is_tied: whether the head is the table of embeddings.
    """

    def __init__(
        self, model: str | Path, adapter: str | Path | None = None, revision: str | None = None
    ):
        name = str(model)
        of_adapter = None
        if adapter is None and is_adapter(model):
            adapter = of_adapter = model
            model, revision = adapter_base(adapter, revision)
        elif adapter is not None and is_adapter(model):
            raise ArgumentError(
                f"`adapter`: {name!r} is an adapter itself; give the model before it."
            )
        self.name = name
        with naming_adapter(of_adapter):
            checkpoint = Checkpoint.find(model, revision=revision)
        with readable_errors(checkpoint):
            self.fields = read_config(checkpoint)
            self._refuse_quantised(checkpoint)
            self.processor = load_processor(checkpoint, self.fields)
            self.folder = checkpoint.download()
            files = checkpoint.kept().weight_files()
            path = checkpoint.find_file("generation_config.json")
            self.generation = {} if path is None else read_json_file(path)
        self.config = model_config(self.fields)
        self._empty: Any = skeleton(MODEL_CLASSES[model_type_of(self.fields)], self.config)
        self.tokenizer: Any = self.processor.tokenizer
        self.is_tied = bool(self.config.tie_word_embeddings)
        self.label = _label(name)
        small = [self.folder / name for name in SMALL_FILES]
        self._identity = [_stamp(path) for path in (*files, *small) if path.is_file()]
        self._weights = WeightFiles(files)
        try:
            self._check_tensors(checkpoint)
            self._deltas = self._read_adapter(adapter)
            self._check_tokenizer(checkpoint)
        except BaseException:
            self._weights.close()
            raise

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        self._weights.close()

    @property
    def identity(self) -> str:
        """Tells this checkpoint from others: files with sizes and times, the adapter's too."""
        return json.dumps(self._identity)

    @property
    def is_bfloat16(self) -> bool:
        """Whether most of the weights are kept in bfloat16."""
        dtypes = [self._weights.dtypes[name] for name in self._files.values()]
        return 2 * dtypes.count(torch.bfloat16) > len(dtypes)

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """The numbers of a tensor by its released name, in pieces along the first axis."""
        with self._weights.mapped(self._files[name]) as tensor:
            if self._deltas is not None and self._deltas.changes(self._ours(name)):
                tensor = self._deltas.apply(self._ours(name), tensor)
            if tensor.ndim < 2:
                yield tensor
                return
            rows = max(1, _PIECE_BYTES * len(tensor) // (4 * max(tensor.numel(), 1)))
            for start in range(0, len(tensor), rows):
                yield tensor[start : start + rows]

    def whole(self, name: str) -> torch.Tensor:
        """All numbers of a tensor."""
        return torch.cat(list(self.pieces(name)))

    @contextmanager
    def naming_files(self) -> Iterator[None]:
        """Say of a number that is not finite where it stands in the files of the checkpoint."""
        try:
            yield
        except NotFiniteError as error:
            raise ValueError(f"{error}: {self._first_not_finite()}.") from error

    def _first_not_finite(self) -> str:
        for released, name in self._files.items():
            with self._weights.mapped(name) as tensor:
                wrong = int(tensor.numel() - tensor.isfinite().sum())
            if wrong:
                return (
                    f"{released!r} in {self._weights.file_of(name)} has {wrong} of "
                    f"{math.prod(self.shapes[released])}. Download the file again"
                )
        return "they become so where the adapter is added"

    def as_is(self, name: str, released: str) -> Tensor:
        """The tensor `released`, to be written as `name`."""
        return Tensor(name, self.shapes[released], lambda: self.pieces(released))

    def _ours(self, name: str) -> str:
        """The name in adapters."""
        return our_name(name, self._empty)

    def _refuse_quantised(self, checkpoint: Checkpoint) -> None:
        written = self.fields.get("quantization_config")
        if written or checkpoint.find_file("quantize_config.json") is not None:
            raise ValueError(
                f"The weights of {self.name!r} are quantised already. Export the full weights of "
                "the release; --type says how few bits they get."
            )

    def _check_tensors(self, checkpoint: Checkpoint) -> None:
        """The files must hold just what the config asks for."""
        self._files = tensors_of(checkpoint, self._weights, self._empty)
        self.shapes = {name: self._weights.shapes[file] for name, file in self._files.items()}

    def _read_adapter(self, adapter: str | Path | None) -> Deltas | None:
        if adapter is None:
            return None
        files = AdapterFiles.find(adapter)
        check_settings(files.settings, self._empty, self.processor, files.name)
        use_settings(files.settings, self._empty, self.processor)
        deltas = Deltas.read(files, self._empty)
        check_fits(skeleton(type(self._empty), self.config), files)
        self._identity += [_stamp(files.config), _stamp(files.weights)]
        self.label = _label(str(adapter))
        head = self._empty.released_name(HEAD)
        if self.is_tied:
            embeddings = next(n for n in self.shapes if n.endswith("embed_tokens.weight"))
            if deltas.are_equal(self._ours(embeddings), self._ours(head)):
                deltas.forget(self._ours(head))
            else:  # trained apart: from here on there are two
                self.is_tied = False
                self._files[head] = self._files[embeddings]
                self.shapes[head] = self.shapes[embeddings]
        lacking = sorted(deltas.names - {self._ours(name) for name in self.shapes})
        if lacking:
            raise ValueError(
                f"The adapter {files.name!r} changes tensors that the model's files do not have: "
                f"{listed(lacking)}."
            )
        return deltas

    def _check_tokenizer(self, checkpoint: Checkpoint) -> None:
        problems = find_mismatches(self.config, self.processor)
        if problems:
            raise ValueError(
                f"The files of {checkpoint.location!r} do not belong together: "
                f"{'; '.join(problems)}."
            )


def _stamp(path: Path) -> list[Any]:
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _label(name: str) -> str:
    """What the files are called: the folder, or the repository without its owner."""
    if Path(name).is_dir():
        return Path(name).resolve().name
    return name if name == "nano" else Path(location_of(name)).name
