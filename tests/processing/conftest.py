"""Processors of the golden checkpoints, shared: a test that changes one makes its own."""

from collections.abc import Callable

import pytest

import minicpmv.auto  # noqa: F401
from minicpmv.processing import MiniCPMVProcessor

from ..helpers.golden import CHECKPOINTS
from ..helpers.processors import golden_processor


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
