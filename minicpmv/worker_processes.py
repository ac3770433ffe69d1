"""Processes of this machine that do a work each and are asked over pipes: `WorkerProcess`.

Run as a script, this file is such a process; it imports what its work needs, and no `__main__`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

START_S = 1800.0  # a large model is read from a slow disk, or fetched
_STOP_S = 10.0


class WorkerProcess:
    """A process that can be started again when it has died.

    Args:
        name: for people.
        work: what it does with its end of the pipe, from which everything comes that it is asked;
            can be pickled. What it sends first tells that it is ready, or is the error that keeps
            it from that.
        threads: of its computations.
        log: file that gets what it prints; None: it prints where this process does.
    """

    pipe: Connection

    def __init__(
        self,
        name: str,
        work: Callable[[Connection], None],
        threads: int,
        log: Path | None = None,
    ):
        self.name = name
        self._work = work
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return at once; `ready` waits for it."""
        self.pipe, theirs = Pipe()
        with (
            theirs,
            nullcontext() if self._log is None else self._log.open("ab") as log,
        ):
            # A group of its own: Ctrl-C tells whoever asks, which ends the process.
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                pass_fds=[theirs.fileno()],
            )
        with suppress(ConnectionError):  # `ready` says that it has ended
            self.pipe.send(sys.path)
            self.pipe.send(self._work)

    def ready(self, within_s: float = START_S) -> Any:
        """What it sends first.

        Raises:
            OSError: it ended before, or has sent nothing in `within_s` seconds.
            BaseException: the error that it sent.
        """
        try:
            if not self.pipe.poll(within_s):
                raise OSError(f"{self.name} was not ready after {START_S:.0f} s.")
            found = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise OSError(f"{self.name} ended before it was ready: {self._last_word()}.") from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _last_word(self) -> str:
        text = "" if self._log is None else self._log.read_text(errors="replace").strip()
        return text.splitlines()[-1].rstrip(".") if text else f"exit code {self.exit_code()}"

    def exit_code(self) -> int | None:
        """Of a process that ends; None where it does not."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        return self._process.returncode

    def terminate(self) -> None:
        """Tell it to end; `stop` waits for that."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """End it, by force where it does not end."""
        if self._process is None:
            return
        self.terminate()
        if self.exit_code() is None:
            self._process.kill()
            self._process.wait()
        self.pipe.close()


def stop(workers: Iterable[WorkerProcess]) -> None:
    """End all of them at a time."""
    workers = list(workers)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.stop()


def _main(descriptor: int) -> None:
    pipe: Connection = Connection(descriptor)
    sys.path[:] = pipe.recv()
    pipe.recv()(pipe)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
