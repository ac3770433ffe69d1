"""Fine-tunings of a micro model, each a few seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minicpmv.train.sft.options import SftOptions

from ...helpers.micro import micro_checkpoint, write_rows


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a micro model."""
    return micro_checkpoint(tmp_path_factory.mktemp("micro") / "model")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of rows with its pictures."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def options(micro: Path, rows: Path, tmp_path: Path) -> Callable[..., SftOptions]:
    """`options("name", lora=True)`: of a run of four steps in a folder of that name."""

    def make(name: str = "run", **changes: Any) -> SftOptions:
        fields: dict[str, Any] = {
            "model": str(micro),
            "data": str(rows),
            "output": str(tmp_path / name),
            "max_length": 64,
            "max_steps": 4,
            "save_every": 2,
            "log_every": 1,
            "samples": 0,
            "dtype": "float32",
            "device": "cpu",
            "learning_rate": 1e-3,
            "warmup": 0.0,
            "packing": True,
        }
        return SftOptions(**fields | changes)

    return make
