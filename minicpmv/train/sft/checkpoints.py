"""Which checkpoints of a run are whole, and which one an interrupted run goes on from.

transformers writes `checkpoint-N` in place; a kill may leave half of one. `complete.json` is
written into it last, and folders without it are thrown away at the next start. Older checkpoints
are removed only when a newer one is whole.
"""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COMPLETE = "complete.json"
OPTIONS = "options.json"
REPORT = "report.json"

# What may differ when a run goes on: it changes no weight.
_FREE = {
    "output",
    "device",
    "threads",
    "workers",
    "keep",
    "log_every",
    "samples",
    "samples_every",
    "sample_tokens",
    "report_to",
    "logging_dir",
    "estimate",
    "dry_run",
    "feature_cache_gb",
}


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def checkpoints_of(folder: Path) -> list[tuple[int, Path]]:
    """Whole and broken checkpoints by step, the oldest first."""
    found = []
    for path in folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found)


def mark_complete(checkpoint: Path, step: int) -> None:
    """Everything of this checkpoint is written."""
    write_whole(checkpoint / COMPLETE, {"step": step})


def remove_broken(folder: Path) -> list[Path]:
    """Throw away what a kill has left half written; return what it was."""
    broken = [path for _, path in checkpoints_of(folder) if not (path / COMPLETE).is_file()]
    for path in broken:
        shutil.rmtree(path)
    return broken


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint."""
    whole = [path for _, path in checkpoints_of(folder) if (path / COMPLETE).is_file()]
    return whole[-1] if whole else None


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` whole checkpoints."""
    whole = [path for _, path in checkpoints_of(folder) if (path / COMPLETE).is_file()]
    for path in whole[:-keep]:
        (path / COMPLETE).unlink()  # first: what is half removed is not whole
        shutil.rmtree(path)


def options_of(options: Any, **facts: Any) -> dict[str, Any]:
    """What decides about the weights of a run, as options.json has it.

    Args:
        facts: what is known about data and model beside the options.
    """
    return {"options": dataclasses.asdict(options), **facts}


def check_same_run(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether `folder` holds a run that this one goes on with.

    Raises:
        ValueError: it holds another one; the message names the first difference.
        OSError: it holds something else.
    """
    path = folder / OPTIONS
    if not path.is_file():
        others = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        others = [name for name in others if name not in ("data", "eval_data", "log.txt")]
        if others:
            raise FileExistsError(
                f"{str(folder)!r} is not empty ({sorted(others)[0]}) and holds no run. Give "
                "another --output."
            )
        return False
    if newest(folder) is None and not (folder / REPORT).is_file():
        return False  # nothing to go on with: it ended before its first checkpoint
    before = json.loads(path.read_text(encoding="utf-8"))
    for name, value in wanted["options"].items():
        if name in _FREE:
            continue
        old = before.get("options", {}).get(name)
        if old != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{str(folder)!r} holds a run with {flag} {_shown(old)}, and this one has "
                f"{_shown(value)}. Give the same options to go on with it, or another --output."
            )
    for name in ("data", "eval_data", "num_processes"):
        if name in wanted and before.get(name) != wanted[name]:
            raise ValueError(
                f"{str(folder)!r} holds a run with other {name.replace('_', ' ')}: "
                f"{_difference(before.get(name), wanted[name])}. Give another --output."
            )
    return True


def _difference(before: Any, now: Any) -> str:
    """The first field that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        changed = _changed_file(before.get("files"), now.get("files"))
        if changed:
            return f"{changed} has changed since"
        name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
        return f"{name} was {_shown(before.get(name))}, and is {_shown(now.get(name))}"
    return f"it was {_shown(before)}, and is {_shown(now)}"


def _changed_file(before: Any, now: Any) -> str:
    """The first file of data that is another one than when the run began; "" where none is."""
    if not isinstance(before, list) or not isinstance(now, list) or len(before) != len(now):
        return ""
    pairs = zip(before, now, strict=True)
    return next((str(new[0]) for old, new in pairs if old[0] == new[0] and old != new), "")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


__all__ = [
    "COMPLETE",
    "OPTIONS",
    "REPORT",
    "check_same_run",
    "checkpoints_of",
    "mark_complete",
    "newest",
    "options_of",
    "remove_broken",
    "remove_old",
    "write_whole",
]
