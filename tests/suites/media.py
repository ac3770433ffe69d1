"""Local files for the addresses in transformers' suites, in place of `fetch_hub_objects_for_ci`.

The module of that name in transformers' repository downloads test media; the source distribution
has neither it nor the media. A picture of noise stands for every picture, by its address.
"""

import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

_FOLDER = tempfile.TemporaryDirectory(prefix="minicpmv-suites-")


def url_to_local_path(url: str, *args: object, **kwargs: object) -> str:
    """The path of a picture for `url`; other kinds of files are addresses that do not open."""
    name = Path(url.split("?")[0]).name
    if Path(name).suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
        return url
    path = Path(_FOLDER.name) / name
    if not path.exists():
        random = np.random.default_rng(zlib.crc32(url.encode()))
        Image.fromarray(random.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(path)
    return str(path)
