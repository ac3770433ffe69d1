"""Scores of answers, and how sure a share is after so many trials. Plain arithmetic, no
dependencies.
"""

import math
import re
from collections.abc import Sequence

_NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)
_SYNONYMS = {"gray": "grey", "center": "centre"} | {
    word: str(number) for number, word in enumerate(_NUMBER_WORDS)
}


def normalise(answer: str) -> str:
    """Lower case without punctuation and articles; spellings and number words of one kind."""
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    return " ".join(_SYNONYMS.get(word, word) for word in words if word not in ("a", "an", "the"))


def is_right(answer: str, truth: str) -> bool:
    """Whether the answer says the same as the truth, up to `normalise`."""
    return normalise(answer) == normalise(truth)


def edit_distance(first: Sequence, second: Sequence) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other
    (Levenshtein).
    """
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        previous, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def character_error_rate(answers: Sequence[str], truths: Sequence[str]) -> float:
    """Edit distance over the number of true characters, of all answers together; can exceed 1."""
    errors = sum(edit_distance(a, t) for a, t in zip(answers, truths, strict=True))
    return errors / max(1, sum(len(truth) for truth in truths))


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which stays within 0 and 1 and is honest for few
    trials.

    Raises:
        ValueError: no trials, or more right than trials.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(
            f"{right} right of {total} is no share; expected 0 <= right <= total, total >= 1."
        )
    z = 1.959964  # 97.5 % of the normal distribution
    share = right / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)
