"""Processors of the golden checkpoints, shared: a test that changes one makes its own."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

import minicpmv.auto  # noqa: F401
from minicpmv.processing import MiniCPMVProcessor

from ..conftest import CHECKPOINTS as EVERY_CHECKPOINT

FIRST_FOLDERS = {
    "1.0": Path(__file__).parent.parent / "golden" / "minicpm-v-1_0",
    "2.0": Path(__file__).parent.parent / "golden" / "minicpm-v-2",
    "omnilmm-12b": Path(__file__).parent.parent / "golden" / "omnilmm-12b",
}
LATER = ("2.5", "2.6")
CHECKPOINTS = {version: EVERY_CHECKPOINT[version] for version in LATER} | {
    version: folder / "checkpoint" for version, folder in FIRST_FOLDERS.items()
}


@pytest.fixture(params=CHECKPOINTS)
def version(request: pytest.FixtureRequest) -> str:
    """A test that asks for it runs for every release."""
    return request.param


@pytest.fixture(params=LATER)
def later_version(request: pytest.FixtureRequest) -> str:
    """A release that came with `preprocessor_config.json` and `tokenizer.json`."""
    return request.param


@lru_cache
def golden_processor(version: str, compat: str | None = None) -> MiniCPMVProcessor:
    """The processor of the golden checkpoint of that release."""
    return MiniCPMVProcessor.from_pretrained(CHECKPOINTS[version], compat=compat)


@pytest.fixture
def processor(version: str) -> MiniCPMVProcessor:
    return golden_processor(version)


@pytest.fixture
def processor_2_6() -> MiniCPMVProcessor:
    return golden_processor("2.6")


@pytest.fixture
def new_processor(version: str) -> Callable[..., MiniCPMVProcessor]:
    """Makes a processor of one's own, with other settings."""

    def make(**settings: object) -> MiniCPMVProcessor:
        return MiniCPMVProcessor.from_pretrained(CHECKPOINTS[version], **settings)

    return make
