"""One line for each request: for people, or as JSON."""

import contextlib
import json
import logging
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TextIO

logger = logging.getLogger("minicpmv.serve")

MOST_LINES = 10_000  # that wait to be written
_MOST = 200  # characters of what a client named


@dataclass
class Exchange:
    """What the log says of a request; `request.state.record`.

    Fields:
        begin: when its first bytes came, on the clock of `time.perf_counter`.
        status: of the answer; 499: the client went before.
        model: that was asked for.
        is_counted: whether the metrics know how it ended.
    """

    request_id: str
    method: str
    path: str
    begin: float = field(default_factory=time.perf_counter)
    status: int = 0
    model: str | None = None
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None
    error: str | None = None
    is_counted: bool = False


class LineWriter:
    """Writes lines in a thread of its own: a pipe that nobody reads stops no request.

    What comes while `MOST_LINES` wait is dropped; how many were is a line, too.

    Args:
        stream: stderr by default.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._num_dropped = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        if self._lines.qsize() >= MOST_LINES:
            self._num_dropped += 1
            return
        if self._num_dropped:
            self._lines.put(f"{self._num_dropped} lines were dropped, since nobody read them")
            self._num_dropped = 0
        self._lines.put(line)
        if self._thread is None:
            self._start()

    def flush(self, timeout_s: float = 1.0) -> None:
        """Wait until all is written that was given before, but not for ever."""
        if self._thread is not None:
            is_done = threading.Event()
            self._lines.put(is_done)
            is_done.wait(timeout_s)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="minicpmv-log", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            with contextlib.suppress(OSError, ValueError):  # nobody is there, or it is closed
                print(line, file=self._stream or sys.stderr, flush=True)


class AccessLog:
    """The lines about requests.

    Args:
        form: "text" or "json".
    """

    def __init__(self, form: str, lines: LineWriter | None = None):
        self._is_json = form == "json"
        self.lines = lines or LineWriter()

    def write(self, record: Exchange) -> None:
        now = time.time()
        line = self._as_json(record, now) if self._is_json else self._as_text(record, now)
        self.lines.write(line)

    @staticmethod
    def _as_json(record: Exchange, now: float) -> str:
        fields = {
            "time": round(now, 3),
            "method": record.method,
            "path": record.path[:_MOST],
            "status": record.status,
            "model": record.model[:_MOST] if record.model is not None else None,
            "prompt_tokens": record.num_input_tokens,
            "completion_tokens": record.num_output_tokens,
            "seconds": round(time.perf_counter() - record.begin, 4),
            "error": record.error,
            "request_id": record.request_id,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})

    @staticmethod
    def _as_text(record: Exchange, now: float) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
        words = [at, record.method, _plain(record.path), str(record.status)]
        if record.model is not None:
            words.append(f"model={_plain(record.model)}")
        if record.num_input_tokens is not None:
            words.append(f"tokens={record.num_input_tokens}+{record.num_output_tokens or 0}")
        if record.error is not None:
            words.append(f"error={record.error}")
        words.append(f"seconds={time.perf_counter() - record.begin:.3f}")
        words.append(f"id={record.request_id}")
        return " ".join(words)


def _plain(text: str, most: int = _MOST) -> str:
    """On one line and without blanks, so that no client writes lines of its own."""
    quoted = "".join(c if c.isprintable() and c != " " else f"\\u{ord(c):04x}" for c in text[:most])
    return quoted or "-"


class LogHandler(logging.Handler):
    """What is said besides requests, through the same thread."""

    def __init__(self, lines: LineWriter, form: str):
        super().__init__()
        self._lines = lines
        self._is_json = form == "json"

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        if not self._is_json:
            line = f"minicpmv: {record.getMessage()}"
            self._lines.write(line if trace is None else f"{line}\n{trace}")
            return
        level = record.levelname.lower()
        fields = {"time": round(record.created, 3), "level": level, "message": record.getMessage()}
        self._lines.write(json.dumps(fields if trace is None else {**fields, "traceback": trace}))
