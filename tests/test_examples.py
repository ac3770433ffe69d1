"""The examples run as they stand, with the model in the package, and are short."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_prints(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_under_40_lines(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 40


def test_the_notebook_runs_from_its_folder(monkeypatch, capsys):
    monkeypatch.chdir(FOLDER)
    notebook = json.loads((FOLDER / "first_steps.ipynb").read_text(encoding="utf-8"))
    scope = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "kept without outputs, which change"
            exec(compile("".join(cell["source"]), cell["id"], "exec"), scope)
    assert capsys.readouterr().out.startswith("purple\n")
