"""What the scripts of the trainers share: models, rows, pictures, and one line per case."""

import contextlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from minicpmv.checkpoint.hub import Checkpoint  # noqa: E402
from tests.helpers.golden import CHECKPOINTS  # noqa: E402

MODELS = {"nano": str(Checkpoint.find("nano").location)} | {
    version: str(CHECKPOINTS[version]) for version in ("2.6", "2.5", "2.0", "1.0")
}
TEXT_MODELS = {"2B": str(ROOT / "tests" / "golden" / "minicpm-2b" / "ckpt")}
LORA = r".*language_model\..*\.self_attn\.(q|k|v|o)_proj"
ANSWERS = ["Red.", "A blue one, and a red one."]
_WORK = tempfile.TemporaryDirectory()
WORK = Path(_WORK.name)

_CASES: list[tuple[str, str, Callable[[], None]]] = []


def case(client: str, name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Add a function to the cases; it raises where the trainer or what it made is wrong."""

    def add(function: Callable[[], None]) -> Callable[[], None]:
        _CASES.append((client, name, function))
        return function

    return add


def pictures() -> list[list[str]]:
    """Files of pictures: one for the first row, two for the second."""
    made = []
    for name, size in (("red", (90, 60)), ("blue", (40, 70)), ("green", (64, 64))):
        path = WORK / f"{name}.png"
        Image.new("RGB", size, name).save(path)
        made.append(str(path))
    return [made[:1], made[1:]]


def question(files: list[str]) -> list[dict[str, Any]]:
    """A user's message about some pictures, as `datasets` keeps it."""
    blocks = [{"type": "image", "text": None} for _ in files]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": "What is shown?"}]}]


def answer(text: str) -> list[dict[str, Any]]:
    """An assistant's message."""
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def table(rows: list[dict[str, Any]]) -> Any:
    """Rows with `images` as a dataset."""
    from datasets import Dataset, List
    from datasets import Image as ImageFeature

    return Dataset.from_list(rows).cast_column("images", List(ImageFeature()))


def expect(is_right: object, found: Any) -> None:
    """
    Raises:
        AssertionError: it is not.
    """
    if not is_right:
        raise AssertionError(f"found {found!r}")


def trained_texts(processor: Any, labels: Any) -> list[str]:
    """What each line of a batch trains, with its terminator, without white space around it."""
    return [
        processor.tokenizer.decode(line[line != -100], skip_special_tokens=False).strip()
        for line in labels
    ]


def run_cases() -> None:
    """Run all, print a line for each; only those whose model the arguments name, if any."""
    for client, name, function in _CASES:
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        problem = ""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                function()
        except Exception as error:  # whatever the trainer raises is a result
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            problem = f"{type(error).__name__}: {lines[0]}"
        print(json.dumps({"client": client, "case": name, "problem": problem}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # some of these libraries wait for threads at the end
