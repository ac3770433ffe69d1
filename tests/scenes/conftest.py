"""Scenes that several tests look at."""

import pytest

from ..helpers.scenes import icon_scene


@pytest.fixture(scope="module")
def scenes():
    return [icon_scene(seed, "test" if seed % 4 == 0 else "train") for seed in range(60)]
