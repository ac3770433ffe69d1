"""One form for everything that was recorded: a case, its inputs, and its expected values by name.

The recordings have three formats on disk; `formats/` reads each into these cases. What a case
expects is flat: every value that was recorded has a name of its own (`greedy/ids`,
`slice/0/pixels`), and the replayer compares each of them or fails naming it.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from minicpmv import AutoModel, AutoTokenizer
from minicpmv.processing.processor import MiniCPMVProcessor

from ..golden.pack import PACKED, unpack


@dataclass(frozen=True)
class Digest:
    """Shape, sums, extremes and some entries of an array that was too large to keep."""

    numbers: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Some rows of an array, and the index that takes the same rows of ours."""

    values: torch.Tensor
    index: Any


@dataclass
class Case:
    """One recorded case.

    Fields:
        model: name of the folder that the recording stands in, as `minicpm-v-2_6`.
        kind: which replay repeats it.
        folder: where its pictures are.
        checkpoint: the model.
        given: the inputs; each must be used.
        expected: the recorded values; each must be compared.
        left_out: recorded values that nothing can compare, and why.
        tolerance, relative: of its numbers.
        is_batch: whether its arrays have a leading dimension for samples.
    """

    model: str
    kind: str
    name: str
    folder: Path
    checkpoint: Path
    given: Mapping[str, Any]
    expected: Mapping[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 1e-3
    relative: float = 0.0
    is_batch: bool = False

    @property
    def id(self) -> str:
        return f"{self.model}-{self.kind}-{self.name}"

    def picture(self, name: str) -> Image.Image:
        """A recorded picture, in the mode it was saved in."""
        with Image.open(self.folder / name) as image:
            return image.copy()


class Released:
    """One checkpoint with a vision tower, each part loaded once."""

    def __init__(self, checkpoint: Path):
        self.checkpoint = checkpoint

    @cached_property
    def processor(self) -> Any:
        return MiniCPMVProcessor.from_pretrained(self.checkpoint, compat="released")

    @cached_property
    def tokenizer_as_stored(self) -> Any:
        return AutoTokenizer.from_pretrained(self.checkpoint)

    @cached_property
    def model(self) -> Any:
        return AutoModel.from_pretrained(self.checkpoint, dtype=torch.float32).eval()

    @cached_property
    def model_in_bfloat16(self) -> Any:
        return AutoModel.from_pretrained(self.checkpoint, dtype=torch.bfloat16).eval()


@cache
def released(checkpoint: Path) -> Released:
    return Released(checkpoint)


@cache
def unpacked(checkpoint: Path) -> Path:
    """A folder with `model.safetensors`; a packed one is unpacked elsewhere."""
    if (checkpoint / "model.safetensors").exists() or not (checkpoint / PACKED).exists():
        return checkpoint
    folder = Path(_temporary().name) / checkpoint.parent.name / checkpoint.name
    shutil.copytree(checkpoint, folder, copy_function=shutil.copyfile)
    unpack(folder)
    return folder


@cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="minicpmv-replay-")
