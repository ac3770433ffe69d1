"""Drawn pictures with questions that have a few possible answers, to calibrate and to measure
decisions: `minicpmv calibrate scenes`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minicpmv.decisions.examples import Labelled
from minicpmv.decisions.question import Question
from minicpmv.evaluate.samples import SEEDS
from minicpmv.scenes import ask, render
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.questions.figures import MAX_COUNT, PLACES, SPELLINGS

KINDS = ("few", "many", "icons")


def _spelt(labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {label: (label, *SPELLINGS.get(label, ())) for label in labels}


@dataclass(frozen=True)
class Task:
    """Questions with the same choices.

    Fields:
        asks: tasks of `minicpmv.scenes`, each as often.
        choices: None: yes and no.
    """

    asks: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]] | None


TASKS = {
    "yes-no": Task(
        ("existence", "colour_statement", "shape_statement", "number_statement", "relation"), None
    ),
    "colour": Task(("colour",), _spelt(tuple(COLOURS))),
    "shape": Task(("shape",), _spelt(tuple(SHAPES))),
    "counting": Task(("counting",), _spelt([str(number) for number in range(MAX_COUNT + 1)])),
    "position": Task(("position",), _spelt([place for row in PLACES for place in row])),
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
        scene = render(scene_seed, split, kind=rng.choice(KINDS))
        asked = ask(scene, rng.choice(task.asks), rng)
        if asked is None:
            continue
        kind: Any = "choice" if task.choices else "yesno"
        question = Question.of(asked.text, task.choices, kind=kind, **asking)
        if asked.answer in question.labels:
            where = f"scene {scene_seed} ({split})"
            examples.append(Labelled(question, (scene.image,), asked.answer, where, group=where))
    return examples
