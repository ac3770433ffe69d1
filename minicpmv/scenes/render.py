"""Draw a scene from a seed: every kind of scene by the module that knows how.

The stream of random numbers starts from the split and the seed together, so the same seed gives
the same pixels on every run (with the same Pillow and fonts) and unrelated pictures in the two
splits.
"""

import importlib
import importlib.util
import random
from collections.abc import Callable

from minicpmv.scenes import documents, figures
from minicpmv.scenes.scene import Scene

SPLITS = ("train", "test")
LETTERS = figures.LETTERS
_MODULES = [figures, documents]
for _name in ("tables", "charts", "icons"):
    if importlib.util.find_spec(f"minicpmv.scenes.{_name}"):
        _MODULES.append(importlib.import_module(f"minicpmv.scenes.{_name}"))
_PAINTERS: dict[str, Callable[..., Scene]] = {
    kind: module.paint for module in _MODULES for kind in module.KINDS
}
# How often a scene is of each kind, relative to the others.
KINDS: dict[str, float] = {
    kind: weight for module in _MODULES for kind, weight in module.KINDS.items()
}
_USUAL = ("few", "many", "word")


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
        kind: one of `KINDS`; None draws lots.
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
    drawn_kind = rng.choices(_USUAL, [KINDS[name] for name in _USUAL])[0]
    kind = kind or drawn_kind
    if _PAINTERS[kind] is figures.paint:
        return figures.paint(rng, split, seed, kind, size, max_figures)
    return _PAINTERS[kind](rng, split, seed, kind, size)
