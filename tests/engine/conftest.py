"""Chats of the tiny recorded checkpoints, in float32: pictures and text, all nine."""

from functools import lru_cache

import pytest

from minicpmv import Chat, load

from ..conftest import CHECKPOINTS, GOLDEN
from ..processing.test_text import MODELS

FOLDERS = CHECKPOINTS | {name: GOLDEN / name / "ckpt" for name in MODELS}


@lru_cache
def loaded(name: str) -> Chat:
    return load(FOLDERS[name], device="cpu", dtype="float32")


@pytest.fixture(params=FOLDERS)
def chat(request: pytest.FixtureRequest) -> Chat:
    """A test that asks for it runs for every release."""
    chat = loaded(request.param)
    chat.clear()
    chat.system = None
    return chat


@pytest.fixture
def seeing() -> Chat:
    """Of one release with pictures."""
    chat = loaded("2.6")
    chat.clear()
    chat.system = None
    return chat
