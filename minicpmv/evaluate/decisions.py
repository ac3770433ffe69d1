"""Drawn pictures with questions that have a few possible answers, to calibrate and to measure
decisions: `minicpmv calibrate scenes`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minicpmv.decisions.examples import Labelled
from minicpmv.decisions.question import YES_NO, Question
from minicpmv.evaluate.scenes.samples import SEEDS
from minicpmv.scenes import ask, render
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.questions.figures import MAX_COUNT, PLACES, SPELLINGS
from minicpmv.scenes.text.words import words

KINDS = ("few", "many", "icons")
NUM_WORDS = 4  # to choose from


def _spelt(labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {label: (label, *SPELLINGS.get(label, ())) for label in labels}


@dataclass(frozen=True)
class Task:
    """Questions of one kind.

    Fields:
        asks: tasks of `minicpmv.scenes`, each as often.
        choices: the same for all; None: yes and no, or words where `reads`.
        reads: the choices are the word that is printed and others of its length.
        kinds: of scenes.
    """

    asks: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]] | None = None
    reads: bool = False
    kinds: tuple[str, ...] = KINDS


TASKS = {
    "yes-no": Task(
        ("existence", "colour_statement", "shape_statement", "number_statement", "relation"),
    ),
    "colour": Task(("colour",), _spelt(tuple(COLOURS))),
    "shape": Task(("shape",), _spelt(tuple(SHAPES))),
    "counting": Task(("counting",), _spelt([str(number) for number in range(MAX_COUNT + 1)])),
    "position": Task(("position",), _spelt([place for row in PLACES for place in row])),
    "word": Task(("reading_word",), reads=True, kinds=("word",)),
}


def draw_examples(
    number: int,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    seed: int = 0,
    split: str = "test",
    **asking: Any,
) -> list[Labelled]:
    """Examples of these tasks in turn, each about a picture of its own; other seeds share none.

    Args:
        asking: `list_choices` and `average_orders` of `Question.of`.
    """
    examples: list[Labelled] = []
    for scene_seed in range(seed * SEEDS, (seed + 1) * SEEDS):
        if len(examples) == number:
            break
        task = TASKS[tasks[len(examples) % len(tasks)]]
        rng = random.Random(f"decide:{split}:{scene_seed}")
        scene = render(scene_seed, split, kind=rng.choice(task.kinds))
        asked = ask(scene, rng.choice(task.asks), rng)
        choices = None if asked is None else _choices(task, asked.answer, split, rng)
        if asked is None or choices is None or asked.answer not in choices:
            continue
        kind: Any = "choice" if task.choices or task.reads else "yesno"
        question = Question.of(asked.text, choices, kind=kind, **asking)
        where = f"scene {scene_seed} ({split})"
        examples.append(Labelled(question, (scene.image,), asked.answer, where, group=where))
    return examples


def _choices(
    task: Task, answer: str, split: str, rng: random.Random
) -> Mapping[str, tuple[str, ...]] | None:
    """None where there are no other words like the one that is printed."""
    if not task.reads:
        return task.choices or YES_NO
    if not answer.isalpha():
        return None
    others = [w for w in words(split) if len(w) == len(answer) and w != answer.lower()]
    if len(others) < NUM_WORDS - 1:
        return None
    found = [_in_the_case_of(answer, word) for word in rng.sample(others, NUM_WORDS - 1)]
    shuffled = rng.sample([answer, *found], NUM_WORDS)
    return _spelt(shuffled)


def _in_the_case_of(answer: str, word: str) -> str:
    if answer.isupper():
        return word.upper()
    return word.capitalize() if answer[0].isupper() else word
