"""The application over a fake backend."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from ..helpers.serving import FakeBackend, fake_app


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client(backend: FakeBackend) -> Iterator[TestClient]:
    with TestClient(fake_app(backend)) as client:
        yield client
