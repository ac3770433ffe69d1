"""Results as they come, in a file from which a batch that ended goes on, and at last in order."""

import json
import os
import re
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..appending import Appended
from ..durable import put_in_place

_LINE = re.compile(rb'\{"row": (\d+), "failed": (true|false), "result": ')


def part_of(out: Path) -> Path:
    """Where results stand as they come."""
    return out.with_name(f"{out.name}.part")


def new_of(out: Path) -> Path:
    """Where they stand in order, before that takes the name of `out`."""
    return out.with_name(f"{out.name}.new")


class Journal(Appended):
    """`OUT.part`: a line for each row that is done, written at once.

    Args:
        out: the file of all results, made by `finish`.
        about: what must be the same for results to belong to one batch.
        count: how many rows there are.

    Raises:
        OSError: it cannot be written, or another process writes it.
        ValueError: it holds the results of another batch.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], count: int):
        self.out = out
        self.path = part_of(out)
        self.count = count
        self._offsets = array("q", [-1]) * count
        self._has_failed = bytearray(count)
        self._about = json.loads(json.dumps(about))
        self._end = 0  # where the next line begins
        super().__init__(self.path)

    def _begin(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            first = lines.readline()
            if not first.endswith(b"\n"):  # new, or killed before the first line was whole
                head = json.dumps({"batch": self._about}, ensure_ascii=False).encode() + b"\n"
                self._file.truncate(0)
                self._file.write(head)
                self._end = len(head)
                return
            self._check(first)
            end = len(first)
            for line in lines:
                if not line.endswith(b"}\n"):
                    break
                if b"\0" in line:  # what a power cut has left of lines: their rows are asked again
                    end += len(line)
                    continue
                found = _LINE.match(line)
                if found is None or int(found[1]) >= self.count:
                    raise ValueError(f"{self.path} has a line that is no result, at byte {end}.")
                self._note(int(found[1]), end, found[2] == b"true")
                end += len(line)
        self._file.truncate(end)
        self._end = end

    def _check(self, first: bytes) -> None:
        try:
            found = dict(json.loads(first)["batch"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"{self.path} is in the way: it holds no results of a batch. Remove it, or give "
                "another OUT."
            ) from None
        for name, wanted in self._about.items():
            if found.get(name) != wanted:
                raise ValueError(
                    f"{self.path} holds results of a batch with {name} {found.get(name)!r}; this "
                    f"one has {wanted!r}. Go on as it was begun, give another OUT, or remove "
                    "it."
                )

    def _note(self, index: int, offset: int, failed: bool) -> None:
        self._offsets[index] = offset
        self._has_failed[index] = failed

    def has(self, index: int) -> bool:
        return self._offsets[index] >= 0

    @property
    def num_done(self) -> int:
        return sum(offset >= 0 for offset in self._offsets)

    @property
    def num_failed(self) -> int:
        return sum(self._has_failed)

    def add(self, index: int, result: Mapping[str, Any], *, failed: bool) -> None:
        """Keep the result of a row.

        Raises:
            OSError: the disk is full, or gone; what was kept before stays.
        """
        head = f'{{"row": {index}, "failed": {json.dumps(failed)}, "result": '.encode()
        line = head + json.dumps(result, ensure_ascii=False).encode("utf-8", "replace") + b"}\n"
        self._append(line)
        self._note(index, self._end, failed)
        self._end += len(line)

    def take(self, names: Iterable[str | None]) -> None:
        """Keep the results that OUT has.

        Args:
            names: the custom_id of each row.

        Raises:
            ValueError: OUT is of other rows.
        """
        with self.out.open("rb") as lines:
            for index, name in enumerate(names):
                line = lines.readline()
                try:
                    result = json.loads(line)
                    found, response = result["custom_id"], result["response"]
                    failed = response is None or response["status_code"] != 200
                except (ValueError, KeyError, TypeError, RecursionError):
                    found, failed = (), True
                if found != name:
                    self.path.unlink()
                    raise ValueError(
                        f"{self.out}, line {index + 1} is no result of the row {name!r}. Give the "
                        "file of results that this batch has made."
                    )
                self.add(index, result, failed=failed)

    def forget_failed(self) -> None:
        """Rows that have failed count as not done."""
        for index in range(self.count):
            if self._has_failed[index]:
                self._has_failed[index], self._offsets[index] = 0, -1

    def finish(self) -> None:
        """Write all results to OUT, in the order of the rows, and remove the journal."""
        new = new_of(self.out)
        try:
            with new.open("wb") as file, self.path.open("rb") as lines:
                for offset in self._offsets:
                    lines.seek(offset)
                    line = lines.readline()
                    found = _LINE.match(line)
                    assert found is not None
                    file.write(line[found.end() : -2] + b"\n")
            put_in_place(new, self.out)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        self.path.unlink()
