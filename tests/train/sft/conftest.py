"""Fine-tunings of a micro model, each a few seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minicpmv.train.sft.options import SftOptions

from ...helpers.micro import short_run, write_rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of rows with its pictures."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def options(micro: Path, rows: Path, tmp_path: Path) -> Callable[..., SftOptions]:
    """`options("name", lora=True)`: of a run of four steps in a folder of that name."""

    def make(name: str = "run", **changes: Any) -> SftOptions:
        fields = short_run(micro, rows, tmp_path / name) | {"packing": True}
        return SftOptions(**fields | changes)

    return make
