"""All questions that can be asked about a scene, merged from the modules that draw it.

Every task is a function from scene to question, or None where the scene does not admit one.
"""

import random
from collections.abc import Callable, Collection

from minicpmv.scenes.questions import charts as chart_questions
from minicpmv.scenes.questions import documents as document_questions
from minicpmv.scenes.questions import figures as figure_questions
from minicpmv.scenes.questions import statements
from minicpmv.scenes.questions import tables as table_questions
from minicpmv.scenes.questions.figures import caption, place_of
from minicpmv.scenes.questions.naming import plural
from minicpmv.scenes.scene import Question, Scene

__all__ = ["TASKS", "WEIGHTS", "Question", "ask", "caption", "place_of", "plural", "questions_of"]

LONG_ANSWER = 20  # characters
_MODULES = (figure_questions, document_questions, table_questions, chart_questions, statements)

TASKS: dict[str, Callable[[Scene, random.Random], Question | None]] = {}
WEIGHTS: dict[str, float] = {}  # how often each task is asked in training
for _module in _MODULES:
    TASKS |= _module.QUESTIONS
    WEIGHTS |= _module.WEIGHTS


def ask(scene: Scene, task: str, rng: random.Random) -> Question | None:
    """One question of `task` about the scene, or None where the scene does not admit one.

    Raises:
        ValueError: the task is not known.
    """
    if task not in TASKS:
        raise ValueError(f"Task {task!r} is not known. Known: {', '.join(TASKS)}.")
    return TASKS[task](scene, rng)


def questions_of(
    scene: Scene, number: int, rng: random.Random, tasks: Collection[str] = ()
) -> list[Question]:
    """Up to `number` different questions about the scene, of `tasks` or of all, drawn by their
    training weight.

    What is read off the picture, or told at length, is asked for once.
    """
    asked: dict[str, Question] = {}
    told: set[tuple[str, str]] = set()
    weights = {task: WEIGHTS[task] for task in tasks or WEIGHTS}
    misses = dict.fromkeys(weights, 0)
    for _attempt in range(6 * number):
        if not weights or len(asked) == number:
            break
        task = rng.choices(list(weights), list(weights.values()))[0]
        question = ask(scene, task, rng)
        if question is not None and question.text not in asked:
            long = question.spelt or len(question.answer) > LONG_ANSWER
            if not long or (task, question.answer) not in told:
                told.add((task, question.answer))
                asked[question.text] = question
                continue
        misses[task] += 1
        if misses[task] == 2:  # most tasks do not fit most scenes
            del weights[task]
    return list(asked.values())
