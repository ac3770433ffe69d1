"""Scores to pairs (RLAIF-V, "combine"), and pairs of about equal length.

A score is minus the number of claims that were rejected: counted, not averaged, so that a long
answer is held against only for what is wrong in it.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

THRESHOLDS = tuple(step / 50 for step in range(50))  # 0, 0.02 ... 0.98


@dataclass(frozen=True)
class Pair:
    """Two answers to the question of one row: places in the list of its answers."""

    row: int
    chosen: int
    rejected: int


def score(verdicts: Sequence[bool]) -> int:
    """Of an answer, by whether each of its claims was accepted."""
    return -sum(not accepted for accepted in verdicts)


def pairs_of(
    row: int, texts: Sequence[str], scores: Sequence[int], most: int, seed: int
) -> list[Pair]:
    """At most so many pairs of answers with different scores, drawn by lot, the same for a seed.

    Args:
        row: number of the row, which the lot depends on too.
        texts, scores: of its answers.
    """
    found = []
    for first, second in itertools.combinations(range(len(scores)), 2):
        if scores[first] == scores[second] or texts[first] == texts[second]:
            continue
        better, worse = (first, second) if scores[first] > scores[second] else (second, first)
        found.append(Pair(row, better, worse))
    if len(found) <= most:
        return found
    return random.Random(f"pairs:{seed}:{row}").sample(found, most)


def length_limit(lengths: Sequence[tuple[int, int]]) -> float:
    """How much longer a rejected answer may be, as a share of it, for both kinds of answers to
    have about the same mean length: one of `THRESHOLDS`, the first of those that are equally good.

    Args:
        lengths: words of the chosen and of the rejected answer of each pair.
    """
    best, best_gap = THRESHOLDS[-1], float("inf")
    for limit in THRESHOLDS:
        kept = [pair for pair in lengths if is_kept(*pair, limit)]
        if not kept:
            continue
        chosen = sum(c for c, _ in kept) / len(kept)
        rejected = sum(r for _, r in kept) / len(kept)
        gap = abs(chosen - rejected) / max(rejected, 1e-9)
        if gap < best_gap:
            best, best_gap = limit, gap
    return best


def is_kept(chosen: int, rejected: int, limit: float) -> bool:
    """Whether a pair of so many words stays."""
    return (rejected - chosen) <= limit * rejected


def words(text: str) -> int:
    """Number of words; a Chinese character counts as one."""
    wide = sum("\u3400" <= character <= "\u9fff" for character in text)
    return len(text.split()) + wide
