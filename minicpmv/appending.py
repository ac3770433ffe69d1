"""Files that one process at a time appends to, and that others leave to it."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from .durable import lock

_SYNC_S = 1.0  # what a power cut may cost


class Appended:
    """A file that grows by what is told, and that nobody else writes until it is closed.

    Args:
        path: the file, made when it is not there; None keeps nothing.
        known_as: what the user knows it by, where that is not its path.

    Raises:
        OSError: it cannot be written, or another process writes it.
        ValueError: `_begin` does not know what it holds.
    """

    def __init__(self, path: Path | None, known_as: Path | None = None):
        self._synced = -math.inf
        self._file = None if path is None else path.open("a+b", buffering=0)
        if self._file is None or path is None:
            return
        try:
            if not lock(self._file.fileno(), path):
                raise OSError(f"{known_as or path} is being written by another process.")
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        """Take note of what is there, and cut off half a line of a process that was killed."""

    def _whole_lines(self, what: str) -> Iterator[bytes]:
        """What is there, line by line; half a line of a process that was killed is cut off.

        Args:
            what: the lines are, in words.

        Raises:
            ValueError: the half is all there is, and no JSON.
        """
        assert self._file is not None
        end = 0
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            lines.seek(0)
            for line in lines:
                if line.endswith(b"\n"):
                    end += len(line)
                    yield line
                    continue
                if not end and line.strip() and not line.startswith(b"{"):
                    raise ValueError(f"{self._file.name} holds no {what}. Give another file.")
                self._file.truncate(end)

    def _append(self, data: bytes) -> None:
        """
        Raises:
            OSError: the disk is full, or gone; what was kept before stays.
        """
        if self._file is None:
            return
        while data:  # an unbuffered file may take a part at a time
            data = data[self._file.write(data) :]
        if time.monotonic() - self._synced > _SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
