"""From answers to scores: what one answer is worth, and what all answers of a part come to.

A scorer gives one answer a number between 0 and 1, more for better. A measure turns all answers of
a part into one number with its 95 % interval: Wilson's for shares, by bootstrap over the items for
everything else.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from minicpmv.evaluate import intervals
from minicpmv.evaluate.scenes import metrics
from minicpmv.evaluate.scenes.samples import Sample, option_spans
from minicpmv.scenes import Example
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.things import NAMES
from minicpmv.scenes.questions.naming import plural
from minicpmv.scenes.questions.statements import mentions

_WORD = re.compile(r"[A-Za-z]+|\d+")
_THINGS = {*NAMES, *map(plural, NAMES)}


@dataclass(frozen=True)
class Result:
    """An item with one answer, and the scorer's score of it, for each of its examples."""

    item: Sample
    answers: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Estimate:
    """A number computed from `total` answers or items, with its 95 % interval."""

    value: float
    total: int
    low: float
    high: float


Scorer = Callable[[Example, str], float]


@dataclass(frozen=True)
class Measure:
    """One row of the table."""

    name: str
    compute: Callable[[Sequence[Result]], Estimate]
    less_is_better: bool = False


# Judges


def relaxed_match(example: Example, answer: str) -> float:
    """The answer says what is true, in any spelling of it."""
    turn = example.turns[-1]
    return float(metrics.is_right(answer, turn.answer, *turn.accepted))


def says_yes_or_no(example: Example, answer: str) -> float:
    """The answer begins with the right one of yes and no."""
    return float(metrics.yes_or_no(answer) == example.turns[-1].answer)


def exact_match(example: Example, answer: str) -> float:
    """The answer is what is printed, letter by letter."""
    return float(metrics.on_one_line(answer) == metrics.on_one_line(example.turns[-1].answer))


def agrees_with_people(example: Example, answer: str) -> float:
    """VQA accuracy; of a drawn picture all ten people would say every accepted answer."""
    turn = example.turns[-1]
    return max(metrics.vqa_accuracy(answer, [said] * 10) for said in (turn.answer, *turn.accepted))


def reads_characters(example: Example, answer: str) -> float:
    """One less the character error rate, at least 0."""
    return max(0.0, 1 - metrics.character_error_rate([answer], [example.turns[-1].answer]))


def anls(example: Example, answer: str) -> float:
    """ANLS."""
    turn = example.turns[-1]
    return metrics.anls(answer, turn.answer, *turn.accepted)


def is_close_to_it(example: Example, answer: str) -> float:
    """Relaxed accuracy."""
    turn = example.turns[-1]
    if turn.task != "chart_value":  # labels that happen to be numbers, as years, are no estimates
        return relaxed_match(example, answer)
    return float(any(metrics.is_close(answer, true) for true in (turn.answer, *turn.accepted)))


def has_the_cells(example: Example, answer: str) -> float:
    """Cell F1 of a Markdown table."""
    return metrics.cell_f1(answer, example.turns[-1].answer)


def multiple_choice(example: Example, answer: str) -> float:
    """The answer picks the right option, by its letter or its text."""
    turn = example.turns[-1]
    options = [turn.question[start:end] for start, end in option_spans(turn.question)]
    truth = metrics.chosen_option(turn.answer, options)
    assert truth is not None, turn
    return float(metrics.chosen_option(answer, options) == truth)


def keeps_the_form(example: Example, answer: str) -> float:
    """The answer has the form of the answers shown before it, be it right or not."""
    shown, printed = [turn.answer for turn in example.turns], example.turns[-1].spelt
    return float(form(answer, shown, printed) == form(shown[-1], shown, printed))


def names_only_what_is_there(example: Example, answer: str) -> float:
    """Share of the things named that the picture shows; a description that names nothing has 0."""
    named, present = things_named(answer), things_shown(example)
    return len(named & present) / max(1, len(named))


# Measures


def _estimate_share(scores: Sequence[float]) -> Estimate:
    right = sum(score == 1 for score in scores)
    return Estimate(
        right / len(scores), len(scores), *intervals.wilson_interval(right, len(scores))
    )


def share(results: Sequence[Result]) -> Estimate:
    """Right answers among all."""
    return _estimate_share([score for result in results for score in result.scores])


def share_of_items(results: Sequence[Result]) -> Estimate:
    """Items all of whose answers are right, among all."""
    return _estimate_share([min(result.scores) for result in results])


def mean(results: Sequence[Result]) -> Estimate:
    """Mean score of the items."""
    scores = [fmean(result.scores) for result in results]
    if set(scores) <= {0, 1}:  # a bootstrap of equal scores would claim to be certain
        return _estimate_share(scores)
    interval = intervals.bootstrap_interval(scores, fmean)
    return Estimate(fmean(scores), len(scores), *interval)


def _truth(result: Result) -> str:
    return result.item.examples[0].turns[-1].answer


def character_error_rate(results: Sequence[Result]) -> Estimate:
    """Wrong characters over true ones, of all answers together."""
    pairs = [
        (
            metrics.character_errors(result.answers[0], _truth(result)),
            len(metrics.on_one_line(_truth(result))),
        )
        for result in results
    ]
    return _estimate_ratio(pairs)


def _estimate_ratio(pairs: Sequence[tuple[int, int]]) -> Estimate:
    interval = intervals.bootstrap_interval(pairs, intervals.ratio)
    return Estimate(intervals.ratio(pairs), len(pairs), *interval)


def exact(results: Sequence[Result]) -> Estimate:
    """Answers that say what is true, where the scorer looks at something else."""
    return _estimate_share([relaxed_match(r.item.examples[0], r.answers[0]) for r in results])


def substring(results: Sequence[Result]) -> Estimate:
    """Answers in which all that is printed stands somewhere."""
    return _estimate_share([metrics.contains_text(r.answers[0], _truth(r)) for r in results])


def _named_and_shown(results: Sequence[Result]) -> list[tuple[frozenset[str], frozenset[str]]]:
    return [(things_named(r.answers[0]), things_shown(r.item.examples[0])) for r in results]


def hallucinated_mentions(results: Sequence[Result]) -> Estimate:
    """Things named that are not in the picture, among all named (CHAIR, instances)."""
    return _estimate_ratio(
        [(len(named - shown), len(named)) for named, shown in _named_and_shown(results)]
    )


def hallucinated_responses(results: Sequence[Result]) -> Estimate:
    """Descriptions that name at least one thing that is not there (CHAIR, sentences)."""
    return _estimate_share([bool(named - shown) for named, shown in _named_and_shown(results)])


def things_found(results: Sequence[Result]) -> Estimate:
    """Share of the things in the picture that are named; complements the hallucination rate: an
    empty description scores 0 here."""
    return _estimate_ratio(
        [(len(named & shown), len(shown)) for named, shown in _named_and_shown(results)]
    )


# Forms of answers and things in pictures


def form(answer: str, shown: Sequence[str], printed: bool = False) -> str:
    """What is left of an answer when its content is taken out: "RED circle, 2" and "BLUE star, 5"
    are both "COLOUR thing, 0".

    Words that all the answers shown have, and that are no content, as the names of fields, stay.
    With `printed`, the content is read off a picture: it may be any word, in any case.
    """
    constant = set.intersection(*(set(_WORD.findall(text)) for text in shown))

    def token(match: re.Match) -> str:
        word = match[0]
        name = word.lower()
        sort = "colour" if name in COLOURS else "thing" if name in _THINGS else ""
        if sort and not printed:
            return sort.upper() if word.isupper() else sort.title() if word.istitle() else sort
        if name in ("a", "an"):
            return "A" if word.isupper() else "a"
        return "0" if word.isdigit() else word if word in constant else "word"

    return _WORD.sub(token, answer.strip())


def things_named(description: str) -> frozenset[str]:
    """The things that a description says are there."""
    return frozenset(mentions(description))


def things_shown(example: Example) -> frozenset[str]:
    """The things that the example's pictures show."""
    return frozenset(figure.shape for scene in example.scenes for figure in scene.figures)
