"""The twelve tasks of `minicpmv evaluate scenes`: what is drawn, how answers are scored, and what
is counted.

A task has one part or several; every part has the same number of items, and each of its measures
is a row of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.errors import meant
from minicpmv.evaluate.scenes import measures
from minicpmv.evaluate.scenes.measures import Measure, Scorer
from minicpmv.evaluate.scenes.samples import (
    Draw,
    about_a_picture,
    all_rotations,
    both_answers,
    counts_cycle,
    is_cut_page,
    is_short_line,
    is_word,
    of_examples,
    option_spans,
)

VERSION = 2  # raised when scenes, questions or scoring change

FIGURES = {"few": 1.0, "many": 1.0, "icons": 1.0}


@dataclass(frozen=True)
class Subtask:
    """Items of one kind.

    Fields:
        task: the task to which the part belongs.
        draw: gives the examples of an item.
        scorer: scores one answer.
        measures: what is made of all of them.
        max_new_tokens: room for one answer; what is printed is spelt, one token a character.
    """

    task: str
    name: str
    draw: Draw
    scorer: Scorer
    measures: tuple[Measure, ...]
    max_new_tokens: int = 48


_SUBTASKS = (
    Subtask(
        "yes-no",
        "yes-no",
        both_answers(FIGURES, ("colour_statement", "shape_statement", "existence")),
        measures.says_yes_or_no,
        (
            Measure("accuracy", measures.share),
            Measure("both of a picture (acc+)", measures.share_of_items),
        ),
    ),
    Subtask(
        "open",
        "open",
        about_a_picture(FIGURES, {"colour": 1, "shape": 1, "position": 1, "size": 1}),
        measures.agrees_with_people,
        (Measure("VQA accuracy", measures.share),),
    ),
    Subtask(
        "counting",
        "counting",
        about_a_picture(FIGURES, {"counting": 1}, counts_cycle),
        measures.relaxed_match,
        (Measure("accuracy", measures.share),),
    ),
    Subtask(
        "relation",
        "relation",
        about_a_picture(FIGURES, {"relation": 1}),
        measures.relaxed_match,
        (Measure("accuracy", measures.share),),
    ),
    Subtask(
        "choice",
        "choice",
        all_rotations(FIGURES, "choice"),
        measures.multiple_choice,
        (
            Measure("circular accuracy", measures.share_of_items),
            Measure("accuracy of single questions", measures.share),
        ),
        max_new_tokens=16,
    ),
    Subtask(
        "description",
        "description",
        about_a_picture(FIGURES, {"caption": 1}),
        measures.names_only_what_is_there,
        (
            Measure("hallucinated, of things named", measures.hallucinated_mentions, True),
            Measure("hallucinating, of responses", measures.hallucinated_responses, True),
            Measure("named, of things shown", measures.things_found),
        ),
        max_new_tokens=96,
    ),
    Subtask(
        "reading",
        "word",
        about_a_picture({"word": 1}, {"reading_word": 1}, is_word),
        measures.exact_match,
        (
            Measure("exact", measures.share),
            Measure("substring", measures.substring),
        ),
    ),
    Subtask(
        "reading",
        "line",
        about_a_picture({"line": 1}, {"reading_line": 1}, is_short_line),
        measures.reads_characters,
        (
            Measure("character error rate", measures.character_error_rate, True),
            Measure("substring", measures.substring),
        ),
        max_new_tokens=64,
    ),
    Subtask(
        "reading",
        "page",
        about_a_picture({"page": 1}, {"reading_page": 1}, is_cut_page),
        measures.reads_characters,
        (Measure("character error rate", measures.character_error_rate, True),),
        max_new_tokens=384,  # 8 lines of 28 characters, and as much again for the model's mistakes
    ),
    Subtask(
        "document",
        "document",
        about_a_picture({"receipt": 1, "form": 1, "sign": 1}, {"document": 1}),
        measures.anls,
        (Measure("ANLS", measures.mean),),
        max_new_tokens=64,
    ),
    Subtask(
        "table",
        "cell",
        about_a_picture({"table": 1}, {"table_cell": 1}),
        measures.relaxed_match,
        (Measure("accuracy", measures.share),),
    ),
    Subtask(
        "table",
        "markdown",
        about_a_picture({"table": 1}, {"table_markdown": 1}),
        measures.has_the_cells,
        (Measure("cell F1", measures.mean),),
        max_new_tokens=512,
    ),
    Subtask(
        "chart",
        "chart",
        about_a_picture({"chart": 1}, {"chart_value": 3, "chart_extreme": 1, "chart_compare": 1}),
        measures.is_close_to_it,
        (Measure("relaxed accuracy (5 %)", measures.share),),
    ),
    Subtask(
        "several",
        "pictures",
        of_examples(("same", "which")),
        measures.relaxed_match,
        (Measure("accuracy", measures.share),),
    ),
    Subtask(
        "several",
        "difference",
        of_examples(("difference",)),
        measures.relaxed_match,
        (Measure("accuracy", measures.share),),
    ),
    Subtask(
        "several",
        "few-shot",
        of_examples(("few_shot",)),
        measures.keeps_the_form,
        (
            Measure("form of the answer", measures.share),
            Measure("accuracy", measures.exact),
        ),
    ),
    Subtask(
        "video",
        "video",
        of_examples(("video",), lambda turn: len(option_spans(turn.question)) > 1),
        measures.multiple_choice,
        (Measure("accuracy of choices", measures.share),),
        max_new_tokens=16,
    ),
)
SUBTASKS = {part.name: part for part in _SUBTASKS}
TASKS = {
    task: tuple(part for part in _SUBTASKS if part.task == task)
    for task in dict.fromkeys(part.task for part in _SUBTASKS)
}


def subtasks_of(names: Sequence[str]) -> list[Subtask]:
    """The parts that names of tasks and of parts stand for, each once, in the order of the table.

    Raises:
        ValueError: a name is neither.
    """
    for name in names:
        if name not in TASKS and name not in SUBTASKS:
            known = dict.fromkeys((*TASKS, *SUBTASKS))
            raise ValueError(f"Task {name!r} is not known.{meant(name, known)}")
    return [part for part in _SUBTASKS if part.task in names or part.name in names]


def needs_edit_distance(names: Sequence[str]) -> bool:
    """Whether tasks of these names are scored with edit distances, which take rapidfuzz."""
    scorers = (measures.reads_characters, measures.anls)
    return any(part.scorer in scorers for part in subtasks_of(names))
