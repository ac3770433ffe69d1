"""What is asked: how the pictures and questions of each kind of item are drawn.

An item is what is scored as one: a question about a picture, or a few that belong together (two
with opposite answers, one whose options change places). Every question is an `Example`, whose last
turn is the one to answer; turns before it are shown with their answers.
"""

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from minicpmv.scenes import Example, Question, Scene, Turn, ask, render
from minicpmv.scenes.examples.draw import draw_example
from minicpmv.scenes.questions.figures import MAX_COUNT

MAX_LINE_LENGTH = 24
MAX_PAGE_LINES = 8
SLICE_AREA = 224 * 224  # pixels; nano cuts larger pictures into slices
TRIES = 12  # questions drawn about one picture until one of the wanted kind comes
SEEDS = 1_000_000  # how far the seeds of two runs lie apart

_OPTION = re.compile(r"(?:^|(?<=[\s(]))([A-Z])[.):] *", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """One unit of a part: the questions, with their pictures, that are scored together."""

    number: int
    seed: int
    examples: tuple[Example, ...]


# (seed, split, number of the item in its part) -> examples, or None where this seed admits none.
Draw = Callable[[int, str, int], tuple[Example, ...] | None]

Admits = Callable[[Scene, Question, int], bool]


def draw_samples(draw: Draw, *, split: str, seed: int, number: int) -> list[Sample]:
    """The first `number` items of a seed; runs of other seeds share no picture with them.

    Raises:
        ValueError: the seed's share of all pictures does not admit so many.
    """
    found: list[Sample] = []
    for scene_seed in range(seed * SEEDS, (seed + 1) * SEEDS):
        examples = draw(scene_seed, split, len(found))
        if examples is not None:
            found.append(Sample(len(found), scene_seed, examples))
        if len(found) == number:
            return found
    raise ValueError(f"{SEEDS} seeds from {seed * SEEDS} on admit {len(found)} of {number} items.")


def about_a_picture(
    kinds: Mapping[str, float],
    tasks: Mapping[str, float],
    admits: Admits = lambda scene, question, number: True,
) -> Draw:
    """One question about one picture.

    Args:
        kinds: kinds of scenes, by how often they come.
        tasks: kinds of questions, likewise.
        admits: whether a question about a scene will do as the item of this number.
    """

    def draw(seed: int, split: str, number: int) -> tuple[Example, ...] | None:
        rng = _generator(split, seed)
        scene = render(seed, split, kind=_any(kinds, rng))
        for _attempt in range(TRIES):
            question = ask(scene, _any(tasks, rng), rng)
            if question is not None and admits(scene, question, number):
                return (_example(scene, question),)
        return None

    return draw


def both_answers(kinds: Mapping[str, float], tasks: Sequence[str]) -> Draw:
    """Two questions about one picture, to be answered by yes and by no (MME, POPE), of each task
    in turn.
    """

    def draw(seed: int, split: str, number: int) -> tuple[Example, ...] | None:
        rng = _generator(split, seed)
        scene = render(seed, split, kind=_any(kinds, rng))
        found: dict[str, Question] = {}
        for _attempt in range(2 * TRIES):
            question = ask(scene, tasks[number % len(tasks)], rng)
            if question is not None and question.answer in ("yes", "no"):
                found.setdefault(question.answer, question)
            if len(found) == 2:
                return tuple(_example(scene, found[answer]) for answer in sorted(found))
        return None

    return draw


def all_rotations(kinds: Mapping[str, float], task: str) -> Draw:
    """A multiple choice asked once for every rotation of its options (MMBench, Liu 2023)."""

    def draw(seed: int, split: str, number: int) -> tuple[Example, ...] | None:
        rng = _generator(split, seed)
        scene = render(seed, split, kind=_any(kinds, rng))
        question = ask(scene, task, rng)
        if question is None:
            return None
        return tuple(_example(scene, turned) for turned in rotations(question))

    return draw


def of_examples(kinds: Sequence[str], admits: Callable[[Turn], bool] = lambda turn: True) -> Draw:
    """Several pictures, a few solved examples, or a video; each kind in turn."""

    def draw(seed: int, split: str, number: int) -> tuple[Example, ...] | None:
        example = draw_example(seed, split, kinds[number % len(kinds)])
        return (example,) if admits(example.turns[-1]) else None

    return draw


def counts_cycle(scene: Scene, question: Question, number: int) -> bool:
    """Whether the answer is the number whose turn it is, so that 1 to 6 come equally often."""
    return question.answer == str(1 + number % MAX_COUNT)


def is_word(scene: Scene, question: Question, number: int) -> bool:
    """Whether what is printed is one word of letters."""
    return question.answer.isalpha()


def is_short_line(scene: Scene, question: Question, number: int) -> bool:
    """Whether what is printed is a line of up to 24 characters."""
    return len(question.answer) <= MAX_LINE_LENGTH and "\n" not in question.answer


def is_cut_page(scene: Scene, question: Question, number: int) -> bool:
    """Whether what is printed has up to 8 lines, on a picture that nano's processor cuts."""
    lines, area = question.answer.splitlines(), scene.image.width * scene.image.height
    return 2 <= len(lines) <= MAX_PAGE_LINES and area > SLICE_AREA


def option_spans(question: str) -> list[tuple[int, int]]:
    """Where the texts of the options "A. ... B. ..." stand; each ends at the next or at the line's
    end.
    """
    marks: list[re.Match] = []
    for mark in _OPTION.finditer(question):
        if ord(mark[1]) - ord("A") == len(marks):
            marks.append(mark)
    spans = []
    for mark, following in itertools.zip_longest(marks, marks[1:]):
        text = question[mark.end() : following.start() if following else None]
        spans.append((mark.end(), mark.end() + len(text.partition("\n")[0].rstrip(" ,;("))))
    return spans


def rotations(question: Question) -> list[Question]:
    """The question with its options moved round, once for every place; the letter of the right one
    moves along.
    """
    spans = option_spans(question.text)
    texts = [question.text[start:end] for start, end in spans]
    truth = ord(question.answer) - ord("A")
    turned = []
    for shift in range(len(texts)):
        text = question.text
        for place in reversed(range(len(texts))):  # from the end, so that earlier places stay
            start, end = spans[place]
            text = text[:start] + texts[(place + shift) % len(texts)] + text[end:]
        letter = chr(ord("A") + (truth - shift) % len(texts))
        turned.append(replace(question, text=text, answer=letter))
    return turned


def _generator(split: str, seed: int) -> random.Random:
    return random.Random(f"evaluate:{split}:{seed}")


def _any(weights: Mapping[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _example(scene: Scene, question: Question) -> Example:
    turn = Turn(
        question.task,
        question.text,
        question.answer,
        (0,),
        question.accepted,
        question.spelt,
    )
    return Example((scene,), (turn,))
