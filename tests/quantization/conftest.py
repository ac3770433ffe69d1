"""Quantised checkpoints that several tests ask for."""

import shutil

import pytest

from ..helpers.golden import GOLDEN_FOLDERS
from ..helpers.quantized import GPTQ, TEXT


@pytest.fixture(params=GOLDEN_FOLDERS)
def version(request):
    """The releases that came with an int4 file."""
    return request.param


@pytest.fixture
def gptq(tmp_path):
    """The golden GPTQ checkpoint, with a tokenizer."""
    folder = tmp_path / "gptq"
    shutil.copytree(GPTQ, folder)
    for path in TEXT.iterdir():
        if "token" in path.name:
            shutil.copy(path, folder)
    return folder
