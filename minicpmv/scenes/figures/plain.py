"""Pictures of plain shapes, a few or many of them."""

import random

from minicpmv.scenes.figures import shapes
from minicpmv.scenes.figures.things import (
    Layout,
    draw,
    sample_ground,
    sample_size,
    sample_thing,
    scatter,
    visible,
)
from minicpmv.scenes.scene import Scene

KINDS = {"few": 38.0, "many": 42.0}
# Half the diameter of a shape, as a fraction of the short side: fewer may be larger.
LARGEST = {1: 0.36, 2: 0.27, 3: 0.23, 4: 0.2}
SMALLEST = 0.085


def paint(
    rng: random.Random,
    split: str,
    seed: int,
    kind: str,
    size: tuple[int, int] | None = None,
    max_figures: int = 7,
) -> Scene:
    """Draw "few" shapes (one to three) or "many" (up to `max_figures`, some alike)."""
    is_crowd = kind == "many"
    number = rng.randint(2, max(2, max_figures)) if is_crowd else rng.randint(1, 3)
    layout = sample_layout(rng, size or sample_size(rng), min(number, max_figures), is_crowd)
    return draw(layout, split, seed, kind)


def sample_layout(
    rng: random.Random, size: tuple[int, int], number: int, is_crowd: bool = False
) -> Layout:
    """Shapes on a ground; crowds repeat a few shapes in a few colours, others draw freely."""
    ground = sample_ground(rng)
    palette = visible(ground)
    names = rng.sample(list(shapes.SHAPES), rng.choice((1, 2, 2, 3)) if is_crowd else 4)
    paints = rng.sample(palette, min(len(palette), rng.choice((1, 2, 2, 3)) if is_crowd else 5))
    largest = LARGEST.get(number, 0.17)
    places = scatter(number, size, rng, lambda: rng.uniform(SMALLEST, largest))
    return Layout(
        size,
        ground,
        tuple(
            sample_thing(rng.choice(names), rng.choice(paints), centre, radius, ground, rng)
            for centre, radius in places
        ),
    )
