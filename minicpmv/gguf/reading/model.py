"""`GGUFModel`: a language model and its vision side as a checkpoint, without its tensors unpacked.

The small files that a checkpoint has are written to a folder of their own, so that everything that
reads a checkpoint reads this one; its `config.json` says where the tensors are.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...checkpoint.hub import Checkpoint
from ...releases import RELEASES, Release
from ..container import GGUFFile
from ..types import UNQUANTISED
from .language import language_recipes
from .recipes import Recipe
from .settings import (
    check_language,
    check_single,
    config_fields,
    file_type,
    generation_fields,
    preprocessor_fields,
    release_in,
)
from .tokens import tokenizer_files
from .vision import vision_recipes

METHOD = "gguf"  # `quant_method` in config.json


def is_gguf(name: Any) -> bool:
    """Whether a model is named by a GGUF file."""
    return str(name).lower().endswith(".gguf")


class GGUFModel:
    """The files of one model, opened and understood.

    Attributes:
        release: of a model that supports images, whether its vision side is given or not.
        fields: of `config.json`.
        file, mmproj: the two files.

    Raises:
        OSError: a file is not there.
        ValueError: a file is damaged, of another model, or does not belong to the other.
    """

    def __init__(self, path: str | Path, mmproj: str | Path | None = None):
        self.file = GGUFFile(path)
        check_single(self.file)
        check_language(self.file)
        self.mmproj = None if mmproj is None else GGUFFile(mmproj)
        if self.mmproj is not None:
            check_single(self.mmproj)
        self.release: Release | None = release_in(self.file, self.mmproj)
        self.fields = config_fields(self.file, self.mmproj, self.release)
        if self.mmproj is not None and self.release is not None:
            self.preprocessor = preprocessor_fields(
                self.file, self.mmproj, self.release, self.fields
            )
        else:
            self.preprocessor = None

    @property
    def stored_as(self) -> dict[str, str]:
        """The mixture of each part: {"language": "Q4_K_M", "vision": "F16"}."""
        vision = {} if self.mmproj is None else {"vision": file_type(self.mmproj)}
        return {"language": file_type(self.file), **vision}

    @property
    def num_bytes(self) -> int:
        """Of the tensors in both files."""
        files = [self.file] if self.mmproj is None else [self.file, self.mmproj]
        return sum(info.size for file in files for info in file.tensors.values())

    def packed_bytes(self, width: int) -> int:
        """Bytes of the weights on a CPU with compiled kernels, where quantised matrices stay
        packed.

        Args:
            width: bytes of a number that is not quantised.
        """
        files = [self.file] if self.mmproj is None else [self.file, self.mmproj]
        infos = [info for file in files for info in file.tensors.values()]
        return sum(
            math.prod(info.shape) * width if info.type in UNQUANTISED else info.size
            for info in infos
        )

    def recipes(self) -> dict[str, Recipe]:
        """Every tensor by its released name.

        Raises:
            ValueError: a file has a tensor that the model has not.
        """
        prefix = "llm." if self.fields["model_type"] == "minicpmv" else ""
        experts_at = "block_sparse_moe" if self.fields["model_type"] == "mixtral" else "mlp"
        found = language_recipes(self.file, prefix, experts_at)
        if self.mmproj is not None and self.release is not None:
            is_navit = self.release.vision_tower == "navit"
            found |= vision_recipes(self.mmproj, self.release.version, is_navit=is_navit)
        return found

    def write_folder(self, folder: Path, *, widened: bool = False) -> None:
        """The small files of the checkpoint.

        Args:
            widened: whether no weight is to stay packed.
        """
        own: dict[str, Any] = {
            "quant_method": METHOD,
            "model": str(self.file.path.resolve()),
            "language_of": self.release.version if self.release and not self.mmproj else None,
            "mmproj": None if self.mmproj is None else str(self.mmproj.path.resolve()),
            "widened": widened,
        }
        objects = {
            "config.json": self.fields | {"quantization_config": own},
            "generation_config.json": generation_fields(self.file, self.release),
            "preprocessor_config.json": self.preprocessor,
        }
        for name, fields in objects.items():
            if fields is not None:
                text = json.dumps(fields, ensure_ascii=False, indent=2)
                (folder / name).write_text(text, encoding="utf-8")
        template = self.file.metadata.get("minicpmv.chat_template")  # where it is no release's
        if self.mmproj is not None and template:
            (folder / "chat_template.jinja").write_text(str(template), encoding="utf-8")
        is_small = self.fields.get("variant") == "nano"
        for name, content in tokenizer_files(self.file, self.release, is_small).items():
            (folder / name).write_bytes(content)


@contextmanager
def as_checkpoint(
    path: str | Path, mmproj: str | Path | None = None, *, widened: bool = False
) -> Iterator[Checkpoint]:
    """GGUF files as a checkpoint, whose small files are there as long as the context.

    Args:
        widened: whether no weight is to stay packed.

    Raises: as `GGUFModel`.
    """
    model = GGUFModel(path, mmproj)
    with TemporaryDirectory(prefix="minicpmv-gguf-") as folder:
        model.write_folder(Path(folder), widened=widened)
        try:
            yield Checkpoint(str(path), folder)
        except (OSError, ValueError) as error:
            told = str(error)
            if folder not in told:
                raise
            raise type(error)(told.replace(folder, str(path))) from error


def of_fields(fields: Mapping[str, Any]) -> GGUFModel | None:
    """The GGUF files that a `config.json` of ours stands for; None for other checkpoints."""
    written = fields.get("quantization_config")
    if not isinstance(written, Mapping) or written.get("quant_method") != METHOD:
        return None
    return GGUFModel(written["model"], written["mmproj"])


def language_of(fields: Mapping[str, Any]) -> Release | None:
    """The release whose language model alone a `config.json` of ours describes; else None."""
    written = fields.get("quantization_config")
    if not isinstance(written, Mapping) or written.get("quant_method") != METHOD:
        return None
    version = written.get("language_of")
    return None if version is None else RELEASES[version]
