"""Recordings on disk, of three formats, as cases of one form.

`chat.json` (2.5, 2.6) with its tables beside it; `manifest.json` with a file of arrays per case
(1.0, 2.0, OmniLMM-12B); `manifest.json` whose cases have a `kind` (the text models). The sizes and
hashes of `resize/` are a fourth, small one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..recording import Case
from . import chat, manifest, resize, text

NOT_REPLAYED = {"gguf": "files in GGUF are not read or written yet"}  # by name of the folder


def read_all(golden: Path) -> list[Case]:
    """Every case at or below a folder.

    Raises:
        ValueError: there is none, or a manifest is of no known format.
        OSError: there is no such folder, or no checkpoint beside a recording.
    """
    if not golden.is_dir():
        raise FileNotFoundError(f"There is no folder {str(golden)!r} of recorded data.")
    files = sorted({*golden.rglob("chat.json"), *golden.rglob("manifest.json")})
    cases = [case for file in files for case in _read(file)]
    if not cases:
        raise ValueError(
            f"{str(golden)!r} holds no recorded cases: no chat.json, no manifest.json."
        )
    return cases


def left_out(golden: Path) -> dict[str, str]:
    """Folders with recordings that are not replayed, and why."""
    return {
        str(file.parent): NOT_REPLAYED[name]
        for file in sorted(golden.rglob("manifest.json"))
        for name in NOT_REPLAYED
        if name in file.relative_to(golden.parent).parts
    }


def _read(file: Path) -> Iterator[Case]:
    if set(file.parts) & set(NOT_REPLAYED):
        return
    folder = file.parent
    if file.name == "chat.json":
        yield from chat.read(folder)
        return
    fields = json.loads(file.read_text(encoding="utf-8"))
    if (folder / "chat.json").is_file() or "layout" in fields:
        return  # read with its chat.json; or it only describes the folders below it
    if "rows" in fields:
        yield resize.read(folder, fields)
    elif isinstance(fields.get("cases"), list):
        is_text = any("kind" in case for case in fields["cases"])
        yield from (text if is_text else manifest).read(folder, fields)
    else:
        raise ValueError(f"{str(file)!r} is of no known format: it has neither cases nor rows.")


__all__: list[Any] = ["left_out", "read_all"]
