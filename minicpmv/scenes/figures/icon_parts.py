"""Icons of everyday things, drawn from a few polygons each: the data are in `icons.json`.

A row there is [paint, shape, number ...], the arguments of the function of that name here. An icon
is a tuple of parts inside the unit circle, (y, x) with y downwards, painted one over the other.
Most parts have the colour of the thing ("body", and its darker and lighter shades); a few have a
colour of their own, as the trunk of a tree, which `Icon.extras` lists so that nobody says that
nothing on the picture is brown.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from minicpmv.scenes.figures.colours import Rgb
from minicpmv.scenes.figures.shapes import Point

Part = tuple[str, tuple[Point, ...]]  # paint, polygon

# Paints that do not depend on the colour of the thing: the name of the colour, and the colour.
# Ink turns pale on dark grounds.
PAINTS: dict[str, tuple[str, Rgb]] = {
    "ink": ("black", (40, 40, 44)),
    "white": ("white", (250, 250, 250)),
    "metal": ("grey", (165, 170, 178)),
    "wood": ("brown", (126, 76, 38)),
    "leaf": ("green", (52, 140, 62)),
    "glass": ("blue", (176, 216, 240)),
    "flame": ("orange", (255, 160, 40)),
    "straw": ("yellow", (250, 212, 70)),
    "coral": ("red", (214, 48, 48)),
}
TRACE_PX = 64  # outlines are traced on a canvas of this many pixels a side


@dataclass(frozen=True)
class Icon:
    """The parts of an icon and the colours that people give it, none for any."""

    parts: tuple[Part, ...]
    colours: tuple[str, ...] = ()
    max_turn: int = 8  # degrees either way
    plural: str = ""
    aliases: tuple[str, ...] = ()

    @functools.cached_property
    def extras(self) -> frozenset[str]:
        """Colours seen on the icon besides its own."""
        return frozenset(PAINTS[paint][0] for paint, _ in self.parts if paint in PAINTS)

    @functools.cached_property
    def reach(self) -> float:
        """How far the parts stick out, at least 1."""
        return max(1.0, *(math.hypot(*point) for _, polygon in self.parts for point in polygon))

    @functools.cached_property
    def outline(self) -> tuple[Point, ...]:
        """The silhouette as one polygon, traced from the painted parts."""
        return _trace(self.parts)


def _poly(*numbers: float) -> tuple[Point, ...]:
    """A polygon from y, x, y, x, ..."""
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _box(top: float, left: float, bottom: float, right: float) -> tuple[Point, ...]:
    return (top, left), (top, right), (bottom, right), (bottom, left)


def _disc(
    y: float, x: float, down: float, across: float = 0, start: float = 0, stop: float = 360
) -> tuple[Point, ...]:
    """An ellipse or a sector's rim; degrees from the right, clockwise."""
    across = across or down
    steps = max(6, round(24 * (stop - start) / 360))
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return tuple((y + down * math.sin(a), x + across * math.cos(a)) for a in angles)


def _wedge(y: float, x: float, radius: float, start: float, stop: float) -> tuple[Point, ...]:
    return ((y, x), *_disc(y, x, radius, 0, start, stop))


def _arc(
    y: float, x: float, radius: float, width: float, start: float = 0, stop: float = 360
) -> tuple[Point, ...]:
    """A bent bar; the full circle is a ring with a slit."""
    outer = _disc(y, x, radius + width / 2, 0, start, stop)
    inner = _disc(y, x, radius - width / 2, 0, start, stop)
    return outer + inner[::-1]


def _bar(y0: float, x0: float, y1: float, x1: float, width: float) -> tuple[Point, ...]:
    length = math.hypot(y1 - y0, x1 - x0)
    dy, dx = (x1 - x0) / length * width / 2, -(y1 - y0) / length * width / 2
    return (y0 + dy, x0 + dx), (y1 + dy, x1 + dx), (y1 - dy, x1 - dx), (y0 - dy, x0 - dx)


def _rays(
    number: int, y: float, x: float, near: float, far: float, width: float
) -> list[tuple[Point, ...]]:
    rays = []
    for i in range(number):
        sine, cosine = math.sin(2 * math.pi * i / number), math.cos(2 * math.pi * i / number)
        rays.append(
            _bar(y + near * sine, x + near * cosine, y + far * sine, x + far * cosine, width)
        )
    return rays


_SHAPES: dict[str, Callable[..., Any]] = {
    "poly": _poly,
    "box": _box,
    "disc": _disc,
    "wedge": _wedge,
    "arc": _arc,
    "bar": _bar,
}


def _parts(rows: Sequence[Any]) -> Iterator[Part]:
    """The polygons of rows [paint, shape, number ...]."""
    for paint, shape, *numbers in rows:
        polygons = _rays(*numbers) if shape == "rays" else [_SHAPES[shape](*numbers)]
        for polygon in polygons:
            yield paint, polygon


def _read_icons() -> dict[str, Icon]:
    text = (files(__package__) / "icons.json").read_text(encoding="utf-8")
    return {
        name: Icon(
            tuple(_parts(icon["parts"])),
            tuple(icon.get("colours", ())),
            **{key: icon[key] for key in ("max_turn", "plural") if key in icon},
            aliases=tuple(icon.get("aliases", ())),
        )
        for name, icon in json.loads(text).items()
    }


def _trace(parts: tuple[Part, ...]) -> tuple[Point, ...]:
    """The outer border of the painted parts, followed from pixel edge to pixel edge."""
    mask = Image.new("L", (TRACE_PX, TRACE_PX))
    draw = ImageDraw.Draw(mask)
    unit = TRACE_PX / 2 - 2
    for _paint, polygon in parts:
        draw.polygon(
            [(TRACE_PX / 2 + unit * x - 0.5, TRACE_PX / 2 + unit * y - 0.5) for y, x in polygon],
            fill=1,
        )
    inside = np.asarray(mask).astype(bool)
    # Clockwise edges of every pixel; those shared by two pixels cancel out.
    follows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in np.argwhere(inside).tolist():
        for (dy, dx), start, stop in (
            ((-1, 0), (y, x), (y, x + 1)),
            ((0, 1), (y, x + 1), (y + 1, x + 1)),
            ((1, 0), (y + 1, x + 1), (y + 1, x)),
            ((0, -1), (y + 1, x), (y, x)),
        ):
            if not inside[y + dy, x + dx]:
                follows.setdefault(start, []).append(stop)
    longest: list[tuple[int, int]] = []
    while follows:
        corner = next(iter(follows))
        loop = []
        while corner in follows:
            loop.append(corner)
            stops = follows[corner]
            following = stops.pop()
            if not stops:
                del follows[corner]
            corner = following
        longest = max(longest, loop, key=len)
    corners = [
        here
        for before, here, after in zip(
            longest[-1:] + longest[:-1], longest, longest[1:] + longest[:1], strict=True
        )
        if (here[0] - before[0], here[1] - before[1]) != (after[0] - here[0], after[1] - here[1])
    ]
    return tuple(((y - TRACE_PX / 2) / unit, (x - TRACE_PX / 2) / unit) for y, x in corners)


ICONS = _read_icons()
