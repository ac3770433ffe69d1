"""The order of resizing in which the recorded data were made.

`resize/affected.json` in the folder of recorded data names, for each release, the pictures that
were recorded under Pillow 13.0.0 with their height resized first. What was computed from them holds
for that order only; the package itself always resizes the width first.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minicpmv.processing import pixels


def height_first(
    image: Image.Image, size: tuple[int, int], resample: Any = Image.Resampling.BICUBIC
) -> Image.Image:
    """`pixels.resize` as Pillow 13 resizes the pictures of the recorded data.

    A tall picture that shrinks at least as much in height as in width: height first.
    """
    height, width = size
    shrinks = height < image.height and width * image.height >= image.width * height
    first = (image.width, height) if shrinks else (width, image.height)
    for step in (first, (width, height)):
        if image.size != step:
            image = image.resize(step, resample)
    return image


@contextmanager
def recorded_order(golden: Path) -> Iterator[None]:
    """Resize the height first for the pictures that `golden/resize/affected.json` names.

    They are known by their pixels, so it does not matter how a test shows them, nor beside which
    other pictures.
    """
    affected = _affected(golden)
    sizes = {size for size, _ in affected}
    width_first = pixels.resize

    def resize(image: Image.Image, *args: Any) -> Image.Image:
        recorded = image.size in sizes and _key(image) in affected
        return (height_first if recorded else width_first)(image, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "resize", resize)
        yield


def _affected(golden: Path) -> set[tuple[tuple[int, int], str]]:
    file = golden / "resize" / "affected.json"
    if not file.is_file():
        return set()
    (names_of,) = json.loads(file.read_text(encoding="utf-8")).values()
    paths = [
        path
        for release, names in names_of.items()
        for name in names
        for path in (golden / release).rglob(name)
    ]
    return {_key(Image.open(path).convert("RGB")) for path in paths}


def _key(image: Image.Image) -> tuple[tuple[int, int], str]:
    return image.size, hashlib.sha256(image.tobytes()).hexdigest()
