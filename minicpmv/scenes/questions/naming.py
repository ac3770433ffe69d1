"""What figures are called, and which name is unmistakable."""

import random
from collections.abc import Iterable, Sequence

from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.scene import Figure, Scene

PLURALS = {"cross": "crosses"} | {name: icon.plural for name, icon in ICONS.items() if icon.plural}


# Shapes that no icon has within it, nearly enough to quarrel about.
DISTINCT_SHAPES = ("star", "heart", "moon", "cross")


# Things that might be taken for each other.
LOOKALIKES = (
    {"square", "rectangle"},
    {"cup", "glass"},
    {"ball", "balloon"},
    {"tree", "leaf", "flower"},
    {"candle", "cake"},
)


def plural(noun: str) -> str:
    """The plural of a figure's name."""
    return PLURALS.get(noun, noun + "s")


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def describe(figure: Figure) -> str:
    """Colour and name, or the name alone where the colour has none."""
    return f"{figure.colour} {figure.shape}".strip()


def general_name(figures: Iterable[Figure], rng: random.Random) -> str:
    """What to call figures whatever they are."""
    if all(figure.shape in SHAPES for figure in figures):
        return rng.choice(("shape", "shape", "shape", "figure", "object"))
    return rng.choice(("thing", "thing", "object", "object", "item"))


def disputed_colours(scene: Scene) -> set[str]:
    """Colours that something has besides the figures that are said to have them."""
    disputed = {scene.background} | {text.colour for text in scene.texts}
    for figure in scene.figures:
        if figure.shape in ICONS:
            disputed |= ICONS[figure.shape].extras
        if not figure.colour:  # a line drawing
            disputed |= {"black", "white"}
    return disputed


def absent_names(scene: Scene) -> list[str]:
    """Names that certainly fit nothing on the picture."""
    present = {figure.shape for figure in scene.figures}
    alike = {name for group in LOOKALIKES if group & present for name in group}
    with_icons = any(name in ICONS for name in present)
    candidates = [*(DISTINCT_SHAPES if with_icons else SHAPES), *ICONS]
    return [name for name in candidates if name not in present and name not in alike]


def absent_name(scene: Scene, rng: random.Random) -> str:
    """A name that fits nothing on the picture, of the sort of what is there three times in four."""
    names = absent_names(scene)
    sort = SHAPES if rng.choice(scene.figures).shape in SHAPES else ICONS
    same = [name for name in names if name in sort]
    return rng.choice(same if same and rng.random() < 0.75 else names)


def unique_figures(scene: Scene) -> list[Figure]:
    """Figures that can be told by name, or by name and colour."""
    return [
        figure
        for figure in scene.figures
        if scene.count(figure.shape) == 1
        or (figure.colour and scene.count(figure.shape, figure.colour) == 1 and all_named(scene))
    ]


def all_named(scene: Scene) -> bool:
    return all(figure.colour for figure in scene.figures)


def name_of(scene: Scene, figure: Figure, rng: random.Random | None = None) -> str:
    """The shortest name that fits no other figure; now and then the full one, given `rng`."""
    if scene.count(figure.shape) > 1 or (rng is not None and rng.random() < 0.25):
        return describe(figure)
    return figure.shape


def names_of(figure: Figure) -> tuple[str, ...]:
    """Other answers that mean the figure."""
    aliases = ICONS[figure.shape].aliases if figure.shape in ICONS else ()
    return tuple(dict.fromkeys((figure.shape, describe(figure), *aliases)))


def join(parts: Sequence[str]) -> str:
    """Words of a list: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
