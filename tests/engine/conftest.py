"""Chats of the tiny recorded checkpoints, in float32: pictures and text, all nine."""

import pytest

from minicpmv import Chat

from ..helpers.chats import FOLDERS, loaded


@pytest.fixture(params=FOLDERS)
def chat(request: pytest.FixtureRequest) -> Chat:
    """A test that asks for it runs for every release."""
    chat = loaded(request.param)
    chat.clear()
    chat.engine.forget()
    chat.system = None
    return chat


@pytest.fixture
def seeing() -> Chat:
    """Of one release with pictures."""
    chat = loaded("2.6")
    chat.clear()
    chat.engine.forget()
    chat.system = None
    return chat
