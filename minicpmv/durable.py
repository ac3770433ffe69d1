"""Files that outlast a power cut: their bytes reach the disk before they get their name.

Others keep away from them meanwhile.
"""

import fcntl
import os
from pathlib import Path


def put_in_place(new: Path, path: Path) -> None:
    """Give a whole file its name; whatever happens, there is the old one or all of the new one.

    Raises:
        OSError: the disk refuses.
    """
    sync(new)
    os.replace(new, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file is on the disk, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Wait until a folder is on the disk, with all below it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


def lock(descriptor: int, path: Path) -> bool:
    """Keep other processes from an open file or folder until it is closed.

    Returns:
        False where another one has it, or has just given it another name.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
