"""Typefaces: those of the machine by file name, and Pillow's built-in one where there are none.

Held-out faces are never seen in training. On a machine without any of the named fonts both splits
fall back to the built-in face, which the held-out split then draws heavier.
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

FACES: dict[str, tuple[str, ...]] = {
    "train": (
        "DejaVuSans.ttf",
        "DejaVuSans-Bold.ttf",
        "DejaVuSansCondensed.ttf",
        "DejaVuSansCondensed-Bold.ttf",
        "DejaVuSans-Oblique.ttf",
        "DejaVuSansMono.ttf",
        "DejaVuSerif.ttf",
        "DejaVuSerif-Bold.ttf",
        "DejaVuSerif-Italic.ttf",
    ),
    "test": (
        "DejaVuSansMono-Bold.ttf",
        "DejaVuSerifCondensed.ttf",
        "DejaVuSansCondensed-BoldOblique.ttf",
        "DejaVuSerif-BoldItalic.ttf",
    ),
}
FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts"),
    "darwin": ("/Library/Fonts", "/System/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}


@dataclass(frozen=True)
class Face:
    """A typeface: a file, or Pillow's built-in font when `path` is None; `stroke` thickens it, in
    1/32 em.
    """

    name: str
    path: str | None = None
    stroke: int = 0


@functools.cache
def installed() -> dict[str, str]:
    """Font files of this machine that `FACES` names: file name to path."""
    wanted = {name for names in FACES.values() for name in names}
    found: dict[str, str] = {}
    for folder in FOLDERS.get(sys.platform, ()):
        for path in sorted(Path(folder).rglob("*.ttf")):
            if path.name in wanted:
                found.setdefault(path.name, str(path))
    return found


@functools.cache
def faces(split: str) -> tuple[Face, ...]:
    """The typefaces of a split. The built-in face belongs to training unless there is nothing else
    to hold out.
    """
    paths = installed()
    named = tuple(Face(name, paths[name]) for name in FACES[split] if name in paths)
    if split == "train":
        return (*named, Face("built-in"))
    return named or (Face("built-in heavy", stroke=1),)


@functools.lru_cache(maxsize=512)
def load(face: Face, size_px: int) -> ImageFont.FreeTypeFont:
    """The font of a face at a size in pixels."""
    if face.path is not None:
        return ImageFont.truetype(face.path, size_px)
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError(
            "Pillow was built without FreeType, so no font can be scaled. "
            "Install Pillow from a wheel."
        )
    return font
