"""Several pictures and a conversation about them: pairs, a few solved examples, videos."""

import random
from collections.abc import Callable

from minicpmv.scenes.examples.few_shot import few_shot
from minicpmv.scenes.examples.pairs import difference, same, which
from minicpmv.scenes.examples.videos import video
from minicpmv.scenes.scene import Example

_Drawer = Callable[[random.Random, str, int], Example]

_DRAWERS: dict[str, _Drawer] = {
    "same": same,
    "which": which,
    "difference": difference,
    "few_shot": few_shot,
    "video": video,
}
# How often an example is of each kind, relative to the others.
EXAMPLE_KINDS: dict[str, float] = {
    "same": 2.0,
    "which": 2.0,
    "difference": 1.0,
    "few_shot": 2.0,
    "video": 2.5,
}


def draw_example(seed: int, split: str = "train", kind: str | None = None) -> Example:
    """Draw the example of a seed.

    Args:
        seed: any integer; the same one gives the same example.
        split: "train" or "test".
        kind: one of `EXAMPLE_KINDS`; None draws lots.

    Raises:
        ValueError: `split` or `kind` is not known.
    """
    if split not in ("train", "test"):
        raise ValueError(f"Split {split!r} is not known. Known: train, test.")
    if kind is not None and kind not in EXAMPLE_KINDS:
        raise ValueError(
            f"Kind of example {kind!r} is not known. Known: {', '.join(EXAMPLE_KINDS)}."
        )
    rng = random.Random(f"example:{split}:{seed}")
    drawn = rng.choices(list(EXAMPLE_KINDS), list(EXAMPLE_KINDS.values()))[0]
    return _DRAWERS[kind or drawn](rng, split, seed)
