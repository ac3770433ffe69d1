"""Solved examples for few-shot pages, the same on every run."""

import heapq
from collections.abc import Iterable, Sequence

from .items import Item
from .journal import digest_of

_SPARE = 4  # an item may be among them, and another that asks the same


def drawn_shots(items: Iterable[Item], number: int, seed: str) -> tuple[Item, ...]:
    """Some more examples than `number`, so that every item has that many besides itself.

    Which ones depends on their ids and the seed alone, not on the order of the data; the data is
    read once, and no more than these are kept.

    Args:
        seed: a word; other words draw other examples.

    Raises:
        ValueError: there are fewer with an answer.
    """
    if number < 1:
        return ()
    solved = (item for item in items if item.answers)
    found = heapq.nsmallest(
        number + _SPARE, solved, key=lambda item: (digest_of(seed, item.id), item.id)
    )
    if len(found) < number:
        raise ValueError(
            f"The data has {len(found)} examples with an answer; {number} are to be shown."
        )
    return tuple(found)


def shots_for(item: Item, drawn: Sequence[Item], number: int) -> tuple[Item, ...]:
    """`number` of the drawn examples, never the item itself, nor one that asks the same."""

    def is_other(shot: Item) -> bool:
        same = shot.question == item.question and shot.pictures == item.pictures
        return shot.id != item.id and not same

    others = [shot for shot in drawn if is_other(shot)]
    if len(others) < number:
        raise ValueError(f"Item {item.id!r} has {len(others)} solved examples of {number}.")
    return tuple(others[:number])
