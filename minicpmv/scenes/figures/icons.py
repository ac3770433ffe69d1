"""Pictures of everyday things, alone or among shapes."""

import random

from minicpmv.scenes.figures import shapes
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.things import (
    Layout,
    colours_for,
    draw,
    sample_ground,
    sample_size,
    sample_thing,
    scatter,
    visible,
)
from minicpmv.scenes.scene import Scene

__all__ = ["ICONS", "KINDS", "paint"]

KINDS = {"icons": 25.0}
CROWD_SHARE = 0.3  # pictures that repeat one or two things, to be counted
SHAPES_SHARE = 0.35  # pictures with shapes among the things
# Half the diameter of a thing, as a fraction of the short side: fewer may be larger.
LARGEST = {1: 0.46, 2: 0.3, 3: 0.25, 4: 0.21}
SMALLEST = 0.1


def paint(
    rng: random.Random, split: str, seed: int, kind: str, size: tuple[int, int] | None = None
) -> Scene:
    """Draw one to five things, or up to six that are alike."""
    return draw(sample_layout(rng, split, size or sample_size(rng)), split, seed, kind)


def sample_layout(
    rng: random.Random,
    split: str,
    size: tuple[int, int],
    number: int | None = None,
    *,
    crowd: bool | None = None,
    sort: str | None = None,
    named: bool = False,
) -> Layout:
    """Things on a ground; held-out pictures sometimes line them up from corner to corner.

    Args:
        number: of things; fewer where there is no room. None draws lots.
        crowd: whether a few names and colours are repeated, or all names differ.
        sort: "icons", "shapes" or "mixed".
        named: every thing has a colour with a name.
    """
    ground = sample_ground(rng)
    if crowd is None:
        crowd = rng.random() < CROWD_SHARE
    if number is None:
        number = rng.randint(2, 6) if crowd else rng.choices(range(1, 6), (20, 25, 25, 18, 12))[0]
    if sort is None:
        sort = "mixed" if number > 1 and rng.random() < SHAPES_SHARE else "icons"
    pool = list(shapes.SHAPES) if sort == "shapes" else list(ICONS)
    names = rng.sample(pool, rng.choice((1, 2)) if crowd else number)
    if sort == "mixed":
        some = max(1, len(names) // 2)
        names[-some:] = rng.sample(list(shapes.SHAPES), some)
    palette = visible(ground)
    chosen = rng.sample(palette, min(len(palette), rng.choice((1, 2, 3)) if crowd else 6))
    largest = LARGEST.get(number, 0.18)
    if split == "test" and number > 1 and rng.random() < 0.1:
        places = _diagonal(number, rng)
    else:
        places = scatter(number, size, rng, lambda: rng.uniform(SMALLEST, largest))
    things = []
    for i, (centre, radius) in enumerate(places):
        name = rng.choice(names) if crowd else names[i]
        fitting = [c for c in colours_for(name, palette) if c in chosen]
        colour = rng.choice(fitting or colours_for(name, palette))
        things.append(sample_thing(name, colour, centre, radius, ground, rng, named=named))
    return Layout(size, ground, tuple(things))


def _diagonal(number: int, rng: random.Random) -> list[tuple[tuple[float, float], float]]:
    radius = 0.42 / number
    falling = rng.random() < 0.5
    steps = [(i + 0.5) / number for i in range(number)]
    return [((y, y if falling else 1 - y), radius) for y in steps]
