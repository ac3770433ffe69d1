"""Processors of the golden checkpoints, shared: a test that changes one makes its own."""

from collections.abc import Callable
from functools import lru_cache

import pytest

import minicpmv.auto  # noqa: F401
from minicpmv.processing import MiniCPMVProcessor

from ..conftest import CHECKPOINTS


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
