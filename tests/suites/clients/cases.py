"""What the scripts of the Python clients share: the server, the picture, and one line per case."""

import base64
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

BASE = os.environ["MINICPMV_TEST_SERVER"]
PICTURE = Path(os.environ["MINICPMV_TEST_PICTURE"])
MODEL, KEY = "nano", "key"
PICTURE_BASE64 = base64.b64encode(PICTURE.read_bytes()).decode()
PICTURE_URL = f"data:image/png;base64,{PICTURE_BASE64}"
# The bundled model tells the colour in words; JSON it was never taught, and may have another there.
QUESTION, EXPECTED = "What colour is the star?", "purple"
COLOURS = ["red", "purple", "green"]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": COLOURS}},
    "required": ["colour"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "tell", "description": "Tell the colour.", "parameters": PARAMETERS},
}

_CASES: list[tuple[str, str, Callable[[], None]]] = []


def case(client: str, name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Add a function to the cases; it raises where the client or its answer is wrong."""

    def add(function: Callable[[], None]) -> Callable[[], None]:
        _CASES.append((client, name, function))
        return function

    return add


def expect(found: Any, wanted: Any) -> None:
    """
    Raises:
        AssertionError: they differ.
    """
    if found != wanted:
        raise AssertionError(f"found {found!r}, expected {wanted!r}")


def is_colour(text: str) -> None:
    """The answer about the picture, in whatever words."""
    if EXPECTED not in text:
        raise AssertionError(f"found {text!r}, expected {EXPECTED!r} in it")


def is_tool_call(name: str, arguments: Any) -> None:
    """A call of `TOOL` that keeps to its schema."""
    expect(name, "tell")
    values = json.loads(arguments) if isinstance(arguments, str) else arguments
    if values.get("colour") not in COLOURS:
        raise AssertionError(f"found {values!r}, expected a colour of the schema")


def refused(kind: type[Exception], named: str, ask: Callable[[], Any]) -> None:
    """
    Raises:
        AssertionError: it is answered, or the error does not name the field.
    """
    try:
        ask()
    except kind as error:
        if named not in str(error):
            raise AssertionError(f"found {error}, expected {named!r} in it") from None
        return
    raise AssertionError(f"it was answered, expected {kind.__name__} about {named}")


def run_cases() -> None:
    for client, name, function in _CASES:
        try:
            function()
            problem = ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=sys.stderr)
        print(json.dumps({"client": client, "case": name, "problem": problem}), flush=True)
