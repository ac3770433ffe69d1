"""A full disk in the middle of a run, said in one line whoever met it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_BY_TORCH = ("PytorchStreamWriter", "inline_container")  # in errors of torch.save


@contextmanager
def disk_errors(folder: str | Path) -> Iterator[None]:
    """Name the folder where a write fails because there is no room.

    Raises:
        OSError: instead of the error of the library that wrote.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _no_room(folder, error.strerror or "no room") from error
    except RuntimeError as error:
        if not any(word in str(error) for word in _BY_TORCH):
            raise
        raise _no_room(folder, "a file could not be written whole") from error


def _no_room(folder: str | Path, why: str) -> OSError:
    return OSError(
        f"{folder} cannot be written: {why}. Free some space, and give the same command again."
    )
