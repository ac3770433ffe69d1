"""Bodies that real clients sent, recorded once; each says which client and what it was asked."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_suffix(".json")
_ALL = json.loads(_FILE.read_text("utf-8"))


def recorded(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Client and body of every request to a path."""
    for each in _ALL:
        if each["path"] == path:
            yield each["client"], deepcopy(each["body"])


def request_of(path: str, what: str) -> dict[str, Any]:
    """The body of one, by what the client was asked."""
    return next(body for client, body in recorded(path) if client.endswith(f": {what}"))
