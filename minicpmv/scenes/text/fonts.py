"""Typefaces: those of the machine that Debian's font packages bring, by file name, and Pillow's
built-in one.

The packages are recorded here and not shipped: whatever is not installed is left out. Folders
beside the system's are named by the environment variable MINICPMV_FONTS. Held-out faces are never
seen in training. On a machine without any of the named fonts both splits fall back to the built-in
face, which the held-out split then draws heavier.
"""

import functools
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

# Debian package -> families -> files. Faces with hairlines, of signs or of one case are left out.
PACKAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "fonts-dejavu": {
        "DejaVu": (
            "DejaVuSans.ttf",
            "DejaVuSans-Bold.ttf",
            "DejaVuSansCondensed.ttf",
            "DejaVuSansCondensed-Bold.ttf",
            "DejaVuSans-Oblique.ttf",
            "DejaVuSansMono.ttf",
            "DejaVuSerif.ttf",
            "DejaVuSerif-Bold.ttf",
            "DejaVuSerif-Italic.ttf",
        )
    },
    "fonts-liberation": {
        "Liberation Sans": (
            "LiberationSans-Regular.ttf",
            "LiberationSans-Bold.ttf",
            "LiberationSans-Italic.ttf",
            "LiberationSans-BoldItalic.ttf",
        ),
        "Liberation Sans Narrow": (
            "LiberationSansNarrow-Regular.ttf",
            "LiberationSansNarrow-Bold.ttf",
        ),
        "Liberation Serif": (
            "LiberationSerif-Regular.ttf",
            "LiberationSerif-Bold.ttf",
            "LiberationSerif-Italic.ttf",
            "LiberationSerif-BoldItalic.ttf",
        ),
        "Liberation Mono": (
            "LiberationMono-Regular.ttf",
            "LiberationMono-Bold.ttf",
            "LiberationMono-Italic.ttf",
        ),
    },
    "fonts-croscore": {
        "Arimo": ("Arimo-Regular.ttf", "Arimo-Bold.ttf", "Arimo-Italic.ttf"),
        "Cousine": ("Cousine-Regular.ttf", "Cousine-Bold.ttf"),
        "Tinos": ("Tinos-Regular.ttf", "Tinos-Bold.ttf", "Tinos-Italic.ttf"),
    },
    "fonts-freefont-ttf": {
        "FreeSans": ("FreeSans.ttf", "FreeSansBold.ttf", "FreeSansOblique.ttf"),
        "FreeSerif": ("FreeSerif.ttf", "FreeSerifBold.ttf", "FreeSerifItalic.ttf"),
        "FreeMono": ("FreeMono.ttf", "FreeMonoBold.ttf"),
    },
    "fonts-crosextra-caladea": {
        "Caladea": ("Caladea-Regular.ttf", "Caladea-Bold.ttf", "Caladea-Italic.ttf")
    },
    "fonts-crosextra-carlito": {
        "Carlito": ("Carlito-Regular.ttf", "Carlito-Bold.ttf", "Carlito-Italic.ttf")
    },
    "fonts-comfortaa": {"Comfortaa": ("Comfortaa-Regular.ttf", "Comfortaa-Bold.ttf")},
    "fonts-dosis": {"Dosis": ("Dosis-Medium.otf", "Dosis-SemiBold.otf", "Dosis-Bold.otf")},
    "fonts-hack": {"Hack": ("Hack-Regular.ttf", "Hack-Bold.ttf", "Hack-Italic.ttf")},
    "fonts-inconsolata": {"Inconsolata": ("Inconsolata.otf",)},
    "fonts-jura": {"Jura": ("Jura-Medium.otf", "Jura-SemiBold.otf", "Jura-Bold.otf")},
    "fonts-lato": {
        "Lato": (
            "Lato-Regular.ttf",
            "Lato-Medium.ttf",
            "Lato-Bold.ttf",
            "Lato-Black.ttf",
            "Lato-Italic.ttf",
            "Lato-BoldItalic.ttf",
        )
    },
    "fonts-open-sans": {
        "Open Sans": (
            "OpenSans-Regular.ttf",
            "OpenSans-Light.ttf",
            "OpenSans-Semibold.ttf",
            "OpenSans-Bold.ttf",
            "OpenSans-ExtraBold.ttf",
            "OpenSans-Italic.ttf",
            "OpenSans-CondBold.ttf",
        )
    },
    "fonts-play": {"Play": ("Play-Regular.otf", "Play-Bold.otf")},
    "fonts-quicksand": {"Quicksand": ("Quicksand-Medium.ttf", "Quicksand-Bold.ttf")},
    "fonts-roboto-unhinted": {
        "Roboto": (
            "Roboto-Regular.ttf",
            "Roboto-Light.ttf",
            "Roboto-Medium.ttf",
            "Roboto-Bold.ttf",
            "Roboto-Black.ttf",
            "Roboto-Italic.ttf",
        ),
        "Roboto Condensed": ("RobotoCondensed-Regular.ttf", "RobotoCondensed-Bold.ttf"),
    },
    "fonts-roboto-slab": {"Roboto Slab": ("RobotoSlab-Regular.otf", "RobotoSlab-Bold.otf")},
    "fonts-sil-gentium-basic": {
        "Gentium": ("GenBasR.ttf", "GenBasB.ttf", "GenBasI.ttf", "GenBkBasR.ttf")
    },
    "fonts-tuffy": {"Tuffy": ("Tuffy.ttf", "Tuffy_Bold.ttf", "Tuffy_Italic.ttf")},
}
HELD_OUT: dict[str, dict[str, tuple[str, ...]]] = {
    "fonts-dejavu": {
        "DejaVu": (
            "DejaVuSansMono-Bold.ttf",
            "DejaVuSerifCondensed.ttf",
            "DejaVuSansCondensed-BoldOblique.ttf",
            "DejaVuSerif-BoldItalic.ttf",
        )
    },
    "fonts-cabin": {
        "Cabin": ("Cabin-Regular.otf", "Cabin-Medium.otf", "Cabin-Bold.otf", "Cabin-Italic.otf")
    },
    "fonts-courier-prime": {
        "Courier Prime": (
            "Courier Prime.otf",
            "Courier Prime Bold.otf",
            "Courier Prime Code.otf",
            "Courier Prime Sans.otf",
        )
    },
    "fonts-oxygen": {
        "Oxygen": ("Oxygen-Sans.ttf", "Oxygen-Sans-Bold.ttf", "OxygenMono-Regular.ttf")
    },
    "fonts-vollkorn": {
        "Vollkorn": (
            "Vollkorn-Regular.ttf",
            "Vollkorn-Medium.ttf",
            "Vollkorn-Bold.ttf",
            "Vollkorn-Italic.ttf",
        )
    },
}
FAMILIES = {
    split: {family: files for families in packages.values() for family, files in families.items()}
    for split, packages in (("train", PACKAGES), ("test", HELD_OUT))
}
# Most machines have DejaVu and little else, so it is seen as often as this.
USUAL_FAMILY, USUAL_SHARE = "DejaVu", 0.3
FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts"),
    "darwin": ("/Library/Fonts", "/System/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}
FOLDERS_VARIABLE = "MINICPMV_FONTS"
_MONOSPACED = ("Mono", "Cousine", "Hack", "Inconsolata", "Courier")


@dataclass(frozen=True)
class Face:
    """A typeface: a file, or Pillow's built-in font when `path` is None; `stroke` thickens it, in
    1/32 em.
    """

    name: str
    path: str | None = None
    stroke: int = 0

    @property
    def is_monospaced(self) -> bool:
        """Whether all characters are equally wide, as programs are set."""
        return any(part in self.name for part in _MONOSPACED)


@functools.cache
def installed() -> dict[str, str]:
    """Font files of this machine that a family names: file name to path."""
    wanted = {
        name for families in FAMILIES.values() for files in families.values() for name in files
    }
    extra = filter(None, os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep))
    found: dict[str, str] = {}
    for folder in (*extra, *FOLDERS.get(sys.platform, ())):
        for path in sorted(Path(folder).rglob("*.[ot]tf")):
            if path.name in wanted:
                found.setdefault(path.name, str(path))
    return found


@functools.cache
def families(split: str) -> dict[str, tuple[Face, ...]]:
    """The families of a split that this machine has. The built-in face belongs to training unless
    there is nothing else to hold out.
    """
    paths = installed()
    found = {
        family: tuple(Face(name, paths[name]) for name in files if name in paths)
        for family, files in FAMILIES[split].items()
    }
    found = {family: faces for family, faces in found.items() if faces}
    if split == "train":
        found["built-in"] = (Face("built-in"),)
    return found or {"built-in": (Face("built-in heavy", stroke=1),)}


@functools.cache
def faces(split: str) -> tuple[Face, ...]:
    """All typefaces of a split."""
    return tuple(face for family in families(split).values() for face in family)


def choose(split: str, rng: random.Random, *, monospaced: bool = False) -> Face:
    """A typeface of the split: DejaVu in `USUAL_SHARE` of the cases, else any other family.

    Where the machine has few families, DejaVu takes the share of the missing ones.
    """
    if monospaced:
        fixed = [face for face in faces(split) if face.is_monospaced]
        if fixed:
            return rng.choice(fixed)
    found = families(split)
    others = [family for family in found if family != USUAL_FAMILY]
    usual_share = USUAL_SHARE if len(others) > 2 else 0.9
    if USUAL_FAMILY in found and (not others or rng.random() < usual_share):
        return rng.choice(found[USUAL_FAMILY])
    return rng.choice(found[rng.choice(others)])


@functools.lru_cache(maxsize=1024)
def load(face: Face, size_px: int) -> ImageFont.FreeTypeFont:
    """The font of a face at a size in pixels; every character is drawn by itself, without
    ligatures.
    """
    if face.path is not None:
        return ImageFont.truetype(face.path, size_px, layout_engine=ImageFont.Layout.BASIC)
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError(
            "Pillow was built without FreeType, so no font can be scaled. "
            "Install Pillow from a wheel."
        )
    return font
