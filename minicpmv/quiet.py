"""Control transformers' progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def progress_bar(shown: bool) -> Iterator[None]:
    """Show or hide transformers' bars inside a `with` block; afterwards all is as before."""
    before = logging.is_progress_bar_enabled()
    _show(shown)
    try:
        yield
    finally:
        _show(before)


def _show(bar: bool) -> None:
    if bar:
        logging.enable_progress_bar()
    else:
        logging.disable_progress_bar()
