"""stderr belongs to our own lines while models come and go."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def progress_bar(shown: bool) -> Iterator[None]:
    """Whether transformers shows a bar while it loads and saves."""
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
