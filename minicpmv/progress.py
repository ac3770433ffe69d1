"""Bars on a terminal for work that tells how far it is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(text: str | None = None, **options: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A function of what is done and of all there is, which draws a bar on stderr.

    Args:
        text, options: as of `drawn`.
    """
    with drawn(text, **options) as found:

        def show(done: int, total: int | None) -> None:
            found.total = total
            found.update(done - found.n)

        yield show


def drawn(text: str | None = None, **options: Any) -> Any:
    """A bar of tqdm on stderr, to be entered.

    Nothing is drawn where stderr is no terminal, nor of work that ends at once.

    Args:
        text: what stands before the bar.
        options: of tqdm.
    """
    from tqdm import tqdm

    given = {"file": sys.stderr, "disable": None, "leave": False, "delay": 0.1} | options
    return tqdm(desc=text, **given)
