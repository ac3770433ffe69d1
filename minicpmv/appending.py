"""Files that one process at a time appends to, and that others leave to it."""

import fcntl
from io import FileIO
from pathlib import Path


def lock(file: FileIO, path: Path | None) -> None:
    """Keep other processes from writing to an open file until it is closed.

    Args:
        path: what the user knows it by.

    Raises:
        OSError: another process writes it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OSError(f"{path} is being written by another process.") from None


def append(file: FileIO, data: bytes) -> None:
    """Write all of it, of which an unbuffered file may take a part at a time.

    Raises:
        OSError: the disk is full, or gone.
    """
    while data:
        data = data[file.write(data) :]
