"""Recorded bytes of ggml, and names of its types."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from minicpmv.gguf.types import SCALES, TYPES

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


def random_blocks(
    kind: str, rows: int, blocks: int, seed: int = 0, size: float = 1.0
) -> torch.Tensor:
    """uint8 (rows, bytes of a row): any bytes, with scales of a size, of both signs."""
    generator, type_ = np.random.default_rng(seed), TYPES[kind]
    found = generator.integers(0, 256, (rows * blocks, type_.block_bytes), np.uint8)
    for place in SCALES[kind]:
        scales = generator.uniform(-size, size, rows * blocks).astype(np.float16)
        found[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return torch.from_numpy(found.reshape(rows, -1))
