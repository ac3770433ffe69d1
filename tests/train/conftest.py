"""Trainings so small that they take a second."""

import dataclasses
from pathlib import Path

import pytest

from minicpmv.train.pretrain import run as pretrain
from minicpmv.train.pretrain.recipe import STAGES
from minicpmv.train.pretrain.tokenizer import save_tokenizer, train_tokenizer

from ..helpers.micro import micro_checkpoint
from ..helpers.training import TINY


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a micro model."""
    return micro_checkpoint(tmp_path_factory.mktemp("micro") / "model")


@pytest.fixture(autouse=True, scope="module")
def few_slices():
    """Steps of four slices, so that they cost little."""
    short = [
        dataclasses.replace(
            stage,
            shape=dataclasses.replace(stage.shape, rows=min(4, stage.shape.rows), answers=200),
        )
        for stage in STAGES
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "SLICES", 10)
        patch.setattr(pretrain, "STAGES", tuple(short))
        yield


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(), folder)
    return folder


@pytest.fixture
def tiny(tokenizer_folder, tmp_path):
    """Options of a tiny run in a folder of its own that already has the tokenizer."""

    def options(name="run", **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for path in tokenizer_folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return dataclasses.replace(TINY, output=str(folder), **changes)

    return options
