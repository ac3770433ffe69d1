"""Trainings on preferences of a micro model, each a few seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minicpmv.train.dpo.options import DpoOptions

from ...helpers.micro import COLOURS, short_run


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eight pairs about the colour of a picture."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for i in range(8):
        colour, other = COLOURS[i % 4], COLOURS[(i + 1) % 4]
        Image.new("RGB", (28 + 14 * (i % 3), 28), colour).save(folder / f"{i}.png")
        row = {"image": {"bytes": None, "path": f"{i}.png"}, "question": "Which colour?"}
        answers = {"chosen": f"It is {colour} here.", "rejected": f"It is {other} here, not so."}
        lines.append(json.dumps(row | answers) + "\n")
    path = folder / "pairs.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.fixture
def options(micro: Path, pairs: Path, tmp_path: Path) -> Callable[..., DpoOptions]:
    """`options("name", lora=True)`: of a run of four steps in a folder of that name."""

    def make(name: str = "run", **changes: Any) -> DpoOptions:
        fields = short_run(micro, pairs, tmp_path / name) | {"max_length": 128}
        return DpoOptions(**fields | changes)

    return make
