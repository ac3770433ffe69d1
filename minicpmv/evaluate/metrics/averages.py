"""The mean of several benchmarks, as OpenCompass and the cards give it."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

from .contract import Score

if TYPE_CHECKING:
    from minicpmv.evaluate.page import Part


def missing(parts: "Sequence[Part]", scores: Mapping[str, Score]) -> list[str]:
    """Pages that a mean needs and that have no score."""
    return [page for part in parts for page in part.pages if page not in scores]


def average(name: str, parts: "Sequence[Part]", scores: Mapping[str, Score]) -> Score:
    """The plain mean of the parts, each the mean of its pages over what it is divided by; never of
    fewer. Its interval is that of independent scores.

    Args:
        scores: by page, the headline of each.

    Raises:
        ValueError: a page has no score; all that are missing are named.
    """
    absent = missing(parts, scores)
    if absent:
        num_pages = sum(len(part.pages) for part in parts)
        raise ValueError(
            f"{name} is the mean of {len(parts)} benchmarks, and {len(absent)} of its {num_pages} "
            f"pages have no score: {', '.join(absent)}. Run them first."
        )
    value = below = above = 0.0
    for part in parts:
        weight = 1 / (part.divide * len(part.pages) * len(parts))
        for page in part.pages:
            score = scores[page]
            value += score.value * weight
            below += ((score.value - score.low) * weight) ** 2
            above += ((score.high - score.value) * weight) ** 2
    used = [scores[page] for part in parts for page in part.pages]
    total, unparsed = sum(each.total for each in used), sum(each.unparsed for each in used)
    return Score(name, value, value - sqrt(below), value + sqrt(above), total, unparsed)
