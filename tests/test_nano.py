"""The bundled model: it is complete, it looks, and what it is said to do is what it does."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import minicpmv
from minicpmv.evaluate.scenes import evaluate, scores
from minicpmv.evaluate.scenes.tasks import SUBTASKS

NANO = Path(str(files("minicpmv"))) / "nano"
DEMO = Path(__file__).parents[1] / "examples" / "scene.png"


@pytest.fixture(scope="module")
def nano():
    return minicpmv.load(progress=False)


def test_the_demo_picture_shows_what_the_documents_say():
    """A blue circle, a green triangle and a purple star: each covers what its shape covers."""
    pixels = np.asarray(Image.open(DEMO).convert("RGB")).astype(int)
    for rgb, fill in {(50, 88, 221): 0.785, (10, 246, 0): 0.5, (120, 42, 182): 0.35}.items():
        rows, cols = np.nonzero((pixels == rgb).all(axis=-1))
        box = (np.ptp(rows) + 1) * (np.ptp(cols) + 1)
        assert len(rows) / box == pytest.approx(fill, abs=0.06)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What colour is the star?", "purple"),
        ("What shape is blue?", "circle"),
        ("How many shapes are there?", "3"),
        ("Is there a green triangle?", "yes"),
        ("Is there a red heart?", "no"),
    ],
)
def test_nano_answers_about_the_demo_picture(nano, question, answer):
    assert nano.ask(question, [DEMO]).text == answer


def test_the_answer_changes_with_the_picture(nano):
    """The same question, other pictures: what it says follows what is there."""
    pictures = {}
    for colour, rgb in {
        "red": (220, 30, 30),
        "blue": (30, 60, 220),
        "green": (20, 150, 50),
    }.items():
        picture = Image.new("RGB", (224, 224), "white")
        picture.paste(Image.new("RGB", (90, 90), rgb), (60, 70))
        pictures[colour] = picture
    for colour, picture in pictures.items():
        assert nano.ask("What colour is the square?", [picture]).text == colour
        assert nano.ask("What shape is this?", [picture]).text == "square"
    assert nano.ask("What colour is the circle?", [DEMO]).text == "blue"


def test_it_says_so_when_there_is_no_picture(nano):
    assert nano.ask("What colour is the star?").text == "I see no picture."


def test_a_small_sample_of_held_out_scenes_is_answered_as_the_card_promises(nano):
    """Far below the card's scores, so that chance in 40 scenes does not break it."""
    for name, floor in {"yes-no": 0.8, "counting": 0.5, "relation": 0.5, "word": 0.6}.items():
        results = evaluate(nano, SUBTASKS[name], number=40)
        assert scores(SUBTASKS[name], results)[0].value >= floor, name


def test_the_files_are_those_of_a_released_checkpoint_and_small():
    present = {path.name for path in NANO.iterdir()}
    assert {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= present
    assert sum(path.stat().st_size for path in NANO.iterdir() if path.is_file()) < 25e6
    config = json.loads((NANO / "config.json").read_text())
    assert (config["model_type"], str(config["version"])) == ("minicpmv", "2.6")
    with safe_open(NANO / "model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
    assert all(name.startswith(("llm.", "vpm.", "resampler.")) for name in names)


def test_the_card_names_its_scores_and_the_command_that_measures_them():
    card = (NANO / "README.md").read_text(encoding="utf-8")
    for name, part in SUBTASKS.items():
        row = part.task if part.task == name else f"{part.task}: {name}"
        assert f"| {row} |" in card
    assert "minicpmv evaluate scenes" in card
    assert "95 %" in card
