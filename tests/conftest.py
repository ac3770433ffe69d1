"""Fixtures that every test may use; what tests import is in `helpers/`."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from .helpers.golden import GOLDEN, GOLDEN_FOLDERS
from .helpers.pixels import recorded_order
from .helpers.tiny import VERSIONS

# The same examples at every run, and no limit of time, which a loaded machine would break.
settings.register_profile(
    "repository",
    deadline=None,
    derandomize=True,
    database=None,
    # Fixtures that examples share are read only.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="FOLDER",
        help="replay recorded data from elsewhere: pytest tests/replay --golden FOLDER",
    )


@pytest.fixture(scope="session", autouse=True)
def _recorded_order() -> Iterator[None]:
    """Pictures recorded under Pillow 13 are replayed in its order; all others as in use."""
    with recorded_order(GOLDEN):
        yield


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """A test that asks for it runs for every release."""
    return request.param


@pytest.fixture(params=GOLDEN_FOLDERS)
def later_version(request: pytest.FixtureRequest) -> str:
    """A release with `preprocessor_config.json`, `tokenizer.json` and recorded chats."""
    return request.param
