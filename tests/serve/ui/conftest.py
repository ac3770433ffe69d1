"""Uploads, a server of OpenAI's shape, and a client of it."""

import pytest

pytest.importorskip("fastapi")

from minicpmv.serve.ui.client import Client
from minicpmv.serve.ui.uploads import Uploads

from ...helpers.openai_server import FakeServer


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "uploads").mkdir()
    return Uploads(tmp_path / "uploads")


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def url(server):
    with server.running() as address:
        yield address


@pytest.fixture
def client(url):
    return Client(url)
