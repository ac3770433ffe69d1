"""Draw a scene from a seed: every kind of scene by the module that knows how.

The stream of random numbers starts from the split and the seed together, so the same seed gives
the same pixels on every run (with the same Pillow and fonts) and unrelated pictures in the two
splits.
"""

import random
from collections.abc import Callable

from minicpmv.scenes.figures import icons
from minicpmv.scenes.figures import plain as figures
from minicpmv.scenes.figures.degrade import degrade
from minicpmv.scenes.scene import Scene
from minicpmv.scenes.text import charts, documents, tables

SPLITS = ("train", "test")
DEGRADED_SHARE = {"train": 0.35, "test": 0.2}  # how many pictures are made worse
# How often a scene is of each kind, relative to the others; every module says so for its own.
_SHARES = {figures: 1.0, icons: 1.0, documents: 1.0, tables: 15.0, charts: 12.0}
KINDS: dict[str, float] = {
    kind: share * weight
    for module, share in _SHARES.items()
    for kind, weight in module.KINDS.items()
}
_PAINTERS: dict[str, Callable[..., Scene]] = {
    kind: module.paint for module in _SHARES for kind in module.KINDS
}
_PLAINEST = ("few", "many", "word")


def render(
    seed: int,
    split: str = "train",
    *,
    kind: str | None = None,
    size: tuple[int, int] | None = None,
    max_figures: int = 7,
) -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: any integer; the same one gives the same picture.
        split: "train" or "test"; they share neither random numbers nor words nor, where possible,
            typefaces.
        kind: one of `KINDS`; None draws lots between the plainest: "few", "many" and "word".
        size: (height, width) in pixels; None lets the kind decide.
        max_figures: most figures on a picture of plain shapes.

    Raises:
        ValueError: `split` or `kind` is not known.
    """
    if split not in SPLITS:
        raise ValueError(f"Split {split!r} is not known. Known: {', '.join(SPLITS)}.")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"Kind of scene {kind!r} is not known. Known: {', '.join(KINDS)}.")
    rng = random.Random(f"{split}:{seed}")
    drawn_kind = rng.choices(_PLAINEST, [KINDS[name] for name in _PLAINEST])[0]
    kind = kind or drawn_kind
    if kind in figures.KINDS:
        scene = figures.paint(rng, split, seed, kind, size, max_figures)
    else:
        scene = _PAINTERS[kind](rng, split, seed, kind, size)
    lots = random.Random(f"degrade:{split}:{seed}")
    if lots.random() < DEGRADED_SHARE[split]:
        # Colours have to stay what people would call them.
        return degrade(scene, lots, lots.uniform(0.0, 0.5 if scene.figures else 0.8))
    return scene
