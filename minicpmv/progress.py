"""Bars on a terminal for work that tells how far it is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(text: str | None = None, **options: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A function of what is done and of all there is, which draws a bar on stderr.

    Nothing is drawn where stderr is no terminal, nor of work that ends at once.

    Args:
        text: what stands before the bar.
        options: of tqdm.
    """
    from tqdm import tqdm

    given = {"file": sys.stderr, "disable": None, "leave": False, "delay": 0.1} | options
    with tqdm(desc=text, **given) as drawn:

        def show(done: int, total: int | None) -> None:
            drawn.total = total
            drawn.update(done - drawn.n)

        yield show
