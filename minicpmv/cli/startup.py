"""Import torch and transformers at less cost."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports() -> Iterator[None]:
    """Inside, heavy libraries are imported without looking for garbage among what they define.

    Nothing of it is garbage, and there are millions of objects: collecting while they are imported
    and once more at the exit took a third of the time of `minicpmv ask` with the bundled model.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
