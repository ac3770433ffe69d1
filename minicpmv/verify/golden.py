"""Replay of golden cases: what the released code computed, on the same checkpoint, here.

A folder of cases is one of three kinds, told apart by its files: `chat.json` (2.5 and 2.6),
`manifest.json` whose cases have a `kind` (the text models), and `manifest.json` whose cases have
`pixels` or `pixel` (1.0, 2.0, OmniLMM-12B). The checkpoint stands beside it.

A case passes only if something was compared. What was recorded and is not compared is listed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..quiet import progress_bar
from .checks import CaseReport
from .golden_cases import replay_cases
from .golden_chat import replay_chat
from .golden_text import replay_text

CHECKPOINT_NAMES = ("checkpoint", "ckpt")


def find_cases(folder: Path) -> list[Path]:
    """Every folder of cases at or below `folder`, two levels deep at most.

    Raises:
        ValueError: there is none.
        OSError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    candidates = [folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    found = [path for path in candidates if _kind(path) is not None]
    if not found:
        raise ValueError(
            f"{str(folder)!r} holds no golden cases: no chat.json, and no manifest.json with a "
            "list of cases, in it or in its subfolders."
        )
    return found


def replay(cases: Path, checkpoint: Path | None = None) -> Iterator[CaseReport]:
    """The reports of one folder of cases, one by one.

    Args:
        checkpoint: the model to use in place of the one beside the cases.

    Raises:
        ValueError: the folder holds no cases.
        OSError: there is no checkpoint beside them.
    """
    kind = _kind(cases)
    if kind is None:
        raise ValueError(f"{str(cases)!r} holds no golden cases.")
    manifest = _manifest(cases)
    path = checkpoint or _checkpoint(cases, manifest)
    run = {"chat": replay_chat, "cases": replay_cases, "text": replay_text}[kind]
    count = 0
    with progress_bar(False):
        for report in run(cases, path, manifest):
            count += 1
            yield report
    if not count:
        raise ValueError(f"{str(cases)!r} holds an empty list of cases.")


def summary(reports: list[CaseReport]) -> dict[str, Any]:
    """Counts over all cases."""
    differences = [r.max_difference for r in reports if r.max_difference is not None]
    worst = [report.worst for report in reports]
    return {
        "cases": len(reports),
        "passed": sum(report.status == "passed" for report in reports),
        "failed": sum(report.status == "failed" for report in reports),
        "not_covered": sum(report.status == "not covered" for report in reports),
        "comparisons": sum(report.num_compared for report in reports),
        "comparisons_failed": sum(len(report.failures) for report in reports),
        "values_not_covered": sum(len(report.not_covered) for report in reports),
        "max_difference": max(differences, default=None),
        "worst_share": max((w.share or 0.0 for w in worst if w is not None), default=None),
    }


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    fields = json.loads(path.read_text(encoding="utf-8"))
    return fields if isinstance(fields, dict) else {}


def _kind(folder: Path) -> str | None:
    """Which of the three formats a folder holds; None for none."""
    if (folder / "chat.json").is_file():
        return "chat"
    cases = _manifest(folder).get("cases")
    if not isinstance(cases, list):
        return None
    return "text" if any("kind" in case for case in cases) else "cases"


def _checkpoint(cases: Path, manifest: dict[str, Any]) -> Path:
    """The model folder that the manifest names, or that stands beside the cases."""
    named = manifest.get("checkpoint")
    places = [cases / named] if isinstance(named, str) else []
    places += [cases.parent / name for name in CHECKPOINT_NAMES]
    places += [cases / name for name in CHECKPOINT_NAMES]
    for place in places:
        if (place / "config.json").is_file():
            return place.resolve()
    raise FileNotFoundError(
        f"No checkpoint beside {str(cases)!r}: looked for "
        f"{', '.join(str(place) for place in places)}. Name it: minicpmv verify CHECKPOINT "
        f"--golden {cases}"
    )
