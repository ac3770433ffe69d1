"""One line for each request: for people, or as JSON."""

import json
import logging
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

logger = logging.getLogger("minicpmv.serve")


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


class AccessLog:
    """Writes the lines.

    Args:
        form: "text" or "json".
        stream: stderr by default.
    """

    def __init__(self, form: str, stream: TextIO | None = None):
        self._is_json = form == "json"
        self._stream = stream

    def write(self, record: Exchange) -> None:
        now = time.time()
        line = self._as_json(record, now) if self._is_json else self._as_text(record, now)
        print(line, file=self._stream or sys.stderr, flush=True)

    @staticmethod
    def _as_json(record: Exchange, now: float) -> str:
        fields = {
            "time": round(now, 3),
            "method": record.method,
            "path": record.path,
            "status": record.status,
            "model": record.model,
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


def _plain(text: str, most: int = 200) -> str:
    """On one line and without blanks, so that no client writes lines of its own."""
    quoted = "".join(c if c.isprintable() and c != " " else f"\\u{ord(c):04x}" for c in text[:most])
    return quoted or "-"
