"""The folder of recorded data, its cases, and the order of resizing that they were made in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..helpers.pixels import recorded_order
from .formats import read_all
from .questions import ASKED, Question, questions_of

GOLDEN = Path(__file__).parents[1] / "golden"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = read_all(golden_folder(metafunc.config))
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])
    if "questions" in metafunc.fixturenames:
        cases = [case for case in read_all(golden_folder(metafunc.config)) if case.kind in ASKED]
        models = sorted({case.model for case in cases})
        own = [[case for case in cases if case.model == model] for model in models]
        metafunc.parametrize("questions", own, ids=models, indirect=True, scope="module")


def golden_folder(config: pytest.Config) -> Path:
    return Path(config.getoption("--golden") or GOLDEN)


@pytest.fixture(scope="module")
def questions(request: pytest.FixtureRequest, _order_of_elsewhere: None) -> list[Question]:
    """What the cases of one model ask of a chat."""
    return [question for case in request.param for question in questions_of(case)]


@pytest.fixture(scope="session", autouse=True)
def _order_of_elsewhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pictures that a folder from elsewhere names are resized as they were when it was recorded."""
    with recorded_order(golden_folder(request.config)):
        yield
