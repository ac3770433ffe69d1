"""Commands with a model that answers at once, and what they are given."""

import sys
import types

import pytest
from PIL import Image

from minicpmv.cli import main

from ..helpers.fake_chat import FakeChat


@pytest.fixture
def fake_chat(monkeypatch):
    """The chat that `minicpmv.load` gives to every command of the test."""
    chat = FakeChat()
    module = types.ModuleType("minicpmv.loader")

    def load(name="nano", **options):
        chat.name, chat.loaded_with = name, options
        return chat

    module.load = load
    monkeypatch.setitem(sys.modules, "minicpmv.loader", module)
    return chat


@pytest.fixture
def run(capsys):
    """Run `minicpmv` in this process; returns (exit code, stdout, stderr)."""

    def run_command(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def feed(monkeypatch, tmp_path):
    """Put bytes on stdin, as `< file` does."""

    def put(content):
        path = tmp_path / "stdin"
        path.write_bytes(content)
        monkeypatch.setattr(sys, "stdin", path.open(encoding="utf-8"))

    yield put
    if sys.stdin is not sys.__stdin__ and hasattr(sys.stdin, "close"):
        sys.stdin.close()


@pytest.fixture
def picture(tmp_path):
    """A picture file of 300 x 500 pixels (height x width)."""
    path = tmp_path / "street.png"
    Image.new("RGB", (500, 300), "olive").save(path)
    return path
