"""An answer paired with itself, corrected, as people corrected answers for RLHF-V.

    drawn       A green cup and a red star.         the picture shows no cup
    chosen      A green thing and a red star.
    rejected    A green cup and a red star.

Both are equally long and differ in names alone, so that what is learned is when to give one. An
answer whose names are all right is the better one, and the worse one says "thing" for one of them:
without such pairs everything would become a thing. Their share decides how sure a model has to be
before it gives a name.
"""

import random
from collections.abc import Sequence
from typing import Any

from ...scenes.questions.statements import unnamed
from .claims import rewritten

Record = dict[str, Any]


def correction(answer: Record, lot: str) -> Record | None:
    """The pair that a judged answer makes with itself; None where it names nothing.

    Args:
        answer: with `text`, `claims` and `verdicts` on all of them, by what is there alone.
        lot: seeds the choice of the name that is left out where all are right.

    Returns:
        `chosen` and `rejected`, one of them the answer. The other has no claims: nobody judged it.
    """
    holds = {
        claim: verdict[0]
        for claim, verdict in zip(answer["claims"], answer["verdicts"], strict=True)
        if unnamed(claim) != claim
    }
    if not holds:
        return None
    wrong = [claim for claim, is_right in holds.items() if not is_right]
    changed = wrong or [random.Random(f"correction:{lot}").choice(list(holds))]
    text = rewritten(answer["text"], {claim: unnamed(claim) for claim in changed})
    other: Record = {"text": text, "claims": [], "questions": [], "verdicts": [], "score": None}
    if wrong:
        return {"chosen": other, "rejected": answer}
    return {"chosen": answer, "rejected": other}


def corrections(answers: Sequence[Record], lot: str, most: int) -> list[Record]:
    """The pairs of the answers to one question: at most so many with wrong names, and one more of
    the first answer whose names are right.
    """
    found = [correction(answer, f"{lot}:{place}") for place, answer in enumerate(answers)]
    pairs = [pair for pair in found if pair is not None]
    right = [pair for pair in pairs if is_right(pair)]
    return [pair for pair in pairs if not is_right(pair)][:most] + right[:1]


def is_right(pair: Record) -> bool:
    """Whether the drawn answer is the chosen one."""
    return pair["chosen"]["score"] is not None


def with_right_ones(pairs: Sequence[Record], share: float, seed: int) -> list[Record]:
    """The pairs in their order, of those whose answer was right only so many that they are at most
    a share of all, by lot.
    """
    right = [place for place, pair in enumerate(pairs) if is_right(pair)]
    num_wrong = len(pairs) - len(right)
    most = min(len(right), round(num_wrong * share / (1 - share)))
    kept = set(random.Random(f"right:{seed}").sample(right, most))
    return [pair for place, pair in enumerate(pairs) if place in kept or not is_right(pair)]


__all__ = ["correction", "corrections", "with_right_ones"]
