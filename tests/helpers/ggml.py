"""Recorded bytes of ggml, and names of its types."""

from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

FOLDER = Path(__file__).parents[1] / "golden" / "gguf"


@cache
def recorded() -> dict[str, np.ndarray]:
    """`in.CASE`, `q.CASE.TYPE` and `dq.CASE.TYPE`."""
    return load_file(FOLDER / "quantised.safetensors")


@cache
def weighted() -> dict[str, np.ndarray]:
    """`in` (7, 512), `importance` (512,), and by name of the type what ggml makes of both."""
    return load_file(FOLDER / "weighted.safetensors")


def cases(kind: str, type_name: str) -> list[str]:
    """Names of the cases that have such an entry."""
    found = [key.split(".") for key in recorded()]
    return sorted(case for what, case, *rest in found if [what, *rest] == [kind, type_name])
