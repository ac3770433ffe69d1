"""Changes of one thing on a layout: its colour, name, size or place, that it is gone, the ground.

Every change gives the layout after it, or None where there is no room or nothing to change.
"""

import random

from minicpmv.scenes.figures import colours
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.figures.things import (
    GAP,
    MARGIN,
    Layout,
    colours_for,
    sample_ground,
    sample_rgb,
    visible,
)


def recolour(layout: Layout, index: int, rng: random.Random) -> Layout | None:
    """Of another colour that can be seen and that nothing else of it has."""
    thing = layout.things[index]
    extras = ICONS[thing.name].extras if thing.name in ICONS else frozenset()
    choices = [
        colour
        for colour in set(colours_for(thing.name, visible(layout.ground))) - extras
        if colour != thing.colour
    ]
    if not choices or not thing.colour:
        return None
    colour = rng.choice(sorted(choices))
    return layout.with_thing(index, colour=colour, rgb=sample_rgb(colour, layout.ground, rng))


def rename(layout: Layout, index: int, rng: random.Random) -> Layout | None:
    """Something else of the same sort in its place."""
    thing = layout.things[index]
    pool = SHAPES if thing.name in SHAPES else ICONS
    present = {other.name for other in layout.things}
    choices = [
        name
        for name in pool
        if name not in present
        and (not thing.colour or thing.colour in colours_for(name, [thing.colour]))
    ]
    style = thing.style if thing.name in ICONS else "flat"
    return layout.with_thing(
        index,
        name=rng.choice(choices),
        degrees=0.0,
        style="flat" if style == "plain" else style,
    )


def resize(layout: Layout, index: int, rng: random.Random) -> Layout | None:
    """Half as large again or more, or nearly half."""
    radius = layout.things[index].radius
    factor = rng.uniform(1.45, 1.8) if radius < 0.17 else rng.uniform(0.5, 0.65)
    changed = layout.with_thing(index, radius=radius * factor)
    return changed if _fits(changed, index) else None


def shift(layout: Layout, index: int, rng: random.Random) -> Layout | None:
    """Moved by a quarter of the picture or more."""
    thing = layout.things[index]
    for _attempt in range(30):
        centre = rng.uniform(0, 1), rng.uniform(0, 1)
        far = max(abs(a - b) for a, b in zip(centre, thing.centre, strict=True)) > 0.25
        changed = layout.with_thing(index, centre=centre)
        if far and _fits(changed, index):
            return changed
    return None


def _fits(layout: Layout, index: int) -> bool:
    """Whether a thing lies inside the picture and apart from the others."""
    short = min(layout.size)
    height, width = layout.size[0] / short, layout.size[1] / short
    thing = layout.things[index]
    y, x = thing.centre[0] * height, thing.centre[1] * width
    rim = thing.radius + MARGIN
    if not (rim <= y <= height - rim and rim <= x <= width - rim):
        return False
    return all(
        max(abs(y - other.centre[0] * height), abs(x - other.centre[1] * width))
        > thing.radius + other.radius + GAP
        for i, other in enumerate(layout.things)
        if i != index
    )


def remove(layout: Layout, index: int, rng: random.Random) -> Layout | None:
    """Gone, unless it was alone."""
    if len(layout.things) == 1:
        return None
    return layout.with_things([t for i, t in enumerate(layout.things) if i != index])


CHANGES = {
    "colour": recolour,
    "name": rename,
    "size": resize,
    "place": shift,
    "removed": remove,
}


def change_one(layout: Layout, rng: random.Random) -> tuple[str, int, Layout] | None:
    """A change, the number of the thing that changed, and the picture after it."""
    for _attempt in range(12):
        kind, index = rng.choice(list(CHANGES)), rng.randrange(len(layout.things))
        after = CHANGES[kind](layout, index, rng)
        if after is not None:
            return kind, index, after
    return None


def change_ground(layout: Layout, rng: random.Random) -> tuple[str, int, Layout] | None:
    """The same things before another colour, before which they can be seen."""
    for _attempt in range(20):
        ground = sample_ground(rng)
        if ground.name not in ("pale", layout.ground.name) and all(
            colours.distance(thing.rgb, ground.rgb) > colours.MIN_DISTANCE
            for thing in layout.things
        ):
            return "ground", 0, Layout(layout.size, ground, layout.things)
    return None
