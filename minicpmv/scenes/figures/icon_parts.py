"""Icons of everyday things, drawn by code from a few polygons each.

An icon is a tuple of parts inside the unit circle, (y, x) with y downwards, painted one over the
other. Most parts have the colour of the thing ("body", and its darker and lighter shades); a few
have a colour of their own, as the trunk of a tree, which `Icon.extras` lists so that nobody says
that nothing on the picture is brown.
"""

import functools
import math
from dataclasses import dataclass

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


def _of(paint: str, *polygons: tuple[Point, ...]) -> tuple[Part, ...]:
    return tuple((paint, polygon) for polygon in polygons)


ICONS: dict[str, Icon] = {
    "house": Icon(
        (
            ("dark", _box(-0.75, 0.32, -0.3, 0.52)),
            ("body", _box(-0.1, -0.62, 0.78, 0.62)),
            ("dark", _poly(-0.1, -0.85, -0.85, 0.0, -0.1, 0.85)),
            ("ink", _box(0.25, -0.42, 0.78, -0.1)),
            ("glass", _box(0.15, 0.12, 0.48, 0.45)),
        ),
    ),
    "tree": Icon(
        (
            ("wood", _box(0.2, -0.13, 0.95, 0.13)),
            *_of("body", _disc(-0.1, -0.36, 0.42), _disc(-0.1, 0.36, 0.42), _disc(-0.48, 0, 0.46)),
            ("body", _disc(0.05, 0, 0.36, 0.5)),
        ),
        ("green", "green", "green", "green", "orange", "yellow", "red"),
    ),
    "car": Icon(
        (
            ("body", _poly(-0.02, -0.92, -0.02, 0.92, 0.38, 0.95, 0.38, -0.95)),
            ("body", _poly(0.0, -0.6, -0.42, -0.36, -0.42, 0.3, 0.0, 0.62)),
            ("glass", _poly(-0.05, -0.46, -0.32, -0.3, -0.32, -0.05, -0.05, -0.05)),
            ("glass", _poly(-0.05, 0.05, -0.32, 0.05, -0.32, 0.25, -0.05, 0.46)),
            *_of("ink", _disc(0.38, -0.52, 0.22), _disc(0.38, 0.52, 0.22)),
            *_of("metal", _disc(0.38, -0.52, 0.1), _disc(0.38, 0.52, 0.1)),
        ),
    ),
    "bus": Icon(
        (
            ("body", _box(-0.55, -0.9, 0.42, 0.9)),
            *_of("glass", *(_box(-0.38, x, -0.02, x + 0.34) for x in (-0.78, -0.36, 0.06, 0.48))),
            ("dark", _box(0.14, -0.9, 0.22, 0.9)),
            *_of("ink", _disc(0.42, -0.5, 0.2), _disc(0.42, 0.5, 0.2)),
        ),
        plural="buses",
    ),
    "bicycle": Icon(
        (
            *_of("ink", _arc(0.3, -0.56, 0.36, 0.08), _arc(0.3, 0.56, 0.36, 0.08)),
            *_of(
                "body",
                _bar(0.3, -0.56, -0.2, -0.25, 0.1),
                _bar(-0.2, -0.25, -0.2, 0.36, 0.1),
                _bar(0.3, 0.0, -0.2, 0.36, 0.1),
                _bar(0.3, 0.0, -0.36, -0.3, 0.1),
                _bar(0.3, 0.0, 0.3, -0.56, 0.1),
                _bar(0.3, 0.56, -0.5, 0.3, 0.1),
                _bar(-0.5, 0.3, -0.5, 0.56, 0.1),
                _bar(-0.38, -0.48, -0.38, -0.14, 0.12),
            ),
        ),
        aliases=("bike",),
    ),
    "boat": Icon(
        (
            ("wood", _box(-0.9, -0.06, 0.4, 0.04)),
            ("white", _poly(-0.85, 0.08, 0.28, 0.08, 0.28, 0.7)),
            ("light", _poly(-0.7, -0.1, 0.28, -0.1, 0.28, -0.62)),
            ("body", _poly(0.34, -0.92, 0.34, 0.92, 0.8, 0.6, 0.8, -0.6)),
        ),
        aliases=("ship", "sailing boat", "sailboat"),
    ),
    "rocket": Icon(
        (
            ("flame", _poly(0.5, -0.2, 0.98, 0.0, 0.5, 0.2)),
            *_of(
                "dark",
                _poly(0.1, -0.26, 0.66, -0.56, 0.52, -0.2),
                _poly(0.1, 0.26, 0.66, 0.56, 0.52, 0.2),
            ),
            (
                "body",
                _poly(-0.95, 0.0, -0.62, -0.22, -0.2, -0.32, 0.2, -0.32, 0.56, -0.22)
                + _poly(0.56, 0.22, 0.2, 0.32, -0.2, 0.32, -0.62, 0.22),
            ),
            ("glass", _disc(-0.28, 0, 0.16)),
        ),
        max_turn=40,
    ),
    "cup": Icon(
        (
            ("body", _arc(0.05, 0.48, 0.3, 0.14, -100, 100)),
            (
                "body",
                _poly(-0.55, -0.62, -0.55, 0.48, 0.55, 0.4, 0.66, 0.3, 0.66, -0.44, 0.55, -0.54),
            ),
            ("dark", _disc(-0.55, -0.07, 0.11, 0.55)),
        ),
        aliases=("mug",),
    ),
    "bottle": Icon(
        (
            ("dark", _box(-0.97, -0.14, -0.8, 0.14)),
            (
                "body",
                _poly(-0.8, -0.11, -0.8, 0.11, -0.45, 0.13, -0.2, 0.34, 0.92, 0.34)
                + _poly(0.92, -0.34, -0.2, -0.34, -0.45, -0.13),
            ),
            ("white", _box(0.1, -0.34, 0.55, 0.34)),
        ),
    ),
    "glass": Icon(
        (
            (
                "body",
                _poly(-0.85, -0.5, -0.05, -0.34, 0.08, -0.1, 0.72, -0.06, 0.72, 0.06)
                + _poly(0.08, 0.1, -0.05, 0.34, -0.85, 0.5),
            ),
            (
                "dark",
                _poly(-0.45, -0.42, -0.07, -0.34, 0.05, -0.1, 0.05, 0.1, -0.07, 0.34, -0.45, 0.42),
            ),
            ("body", _disc(0.75, 0, 0.1, 0.42)),
        ),
        plural="glasses",
        aliases=("wine glass",),
    ),
    "key": Icon(
        (
            ("body", _arc(0, -0.58, 0.26, 0.17)),
            ("body", _box(-0.09, -0.3, 0.09, 0.95)),
            *_of("body", _box(0.0, 0.5, 0.34, 0.64), _box(0.0, 0.78, 0.28, 0.92)),
        ),
        max_turn=40,
    ),
    "lock": Icon(
        (
            ("metal", _arc(-0.2, 0, 0.38, 0.16, 180, 360)),
            *_of("metal", _box(-0.22, -0.46, 0.1, -0.3), _box(-0.22, 0.3, 0.1, 0.46)),
            ("body", _box(0.0, -0.6, 0.85, 0.6)),
            ("ink", _disc(0.32, 0, 0.13)),
            ("ink", _poly(0.36, -0.05, 0.36, 0.05, 0.64, 0.09, 0.64, -0.09)),
        ),
    ),
    "fish": Icon(
        (
            ("dark", _poly(0, 0.45, -0.4, 0.92, 0.4, 0.92)),
            ("dark", _poly(-0.3, -0.25, -0.62, 0.2, -0.25, 0.3)),
            ("body", _disc(0, -0.18, 0.42, 0.74)),
            ("white", _disc(-0.1, -0.58, 0.11)),
            ("ink", _disc(-0.1, -0.6, 0.055)),
        ),
        max_turn=15,
        plural="fish",
    ),
    "bird": Icon(
        (
            ("straw", _poly(-0.36, 0.62, -0.22, 0.98, -0.14, 0.62)),
            ("dark", _poly(0.0, -0.4, -0.1, -0.98, 0.28, -0.92)),
            *_of("ink", _bar(0.3, -0.05, 0.8, -0.05, 0.06), _bar(0.3, 0.15, 0.8, 0.15, 0.06)),
            ("body", _disc(0.08, 0, 0.4, 0.6)),
            ("body", _disc(-0.28, 0.42, 0.32)),
            ("dark", _poly(-0.12, 0.15, 0.0, -0.5, 0.28, -0.25, 0.25, 0.1)),
            ("ink", _disc(-0.34, 0.5, 0.06)),
        ),
    ),
    "cat": Icon(
        (
            *_of(
                "body",
                _poly(-0.1, -0.72, -0.92, -0.66, -0.5, -0.1),
                _poly(-0.1, 0.72, -0.92, 0.66, -0.5, 0.1),
                _disc(0.1, 0, 0.62, 0.76),
            ),
            *_of("white", _disc(-0.02, -0.3, 0.14, 0.13), _disc(-0.02, 0.3, 0.14, 0.13)),
            *_of("ink", _disc(-0.02, -0.3, 0.11, 0.05), _disc(-0.02, 0.3, 0.11, 0.05)),
            ("ink", _poly(0.22, -0.1, 0.22, 0.1, 0.34, 0.0)),
            *_of(
                "ink",
                *(_bar(0.34, 0.2 * s, y, 0.86 * s, 0.035) for s in (-1, 1) for y in (0.26, 0.46)),
            ),
        ),
    ),
    "butterfly": Icon(
        (
            *_of("body", _disc(-0.34, -0.46, 0.42, 0.44), _disc(-0.34, 0.46, 0.42, 0.44)),
            *_of("dark", _disc(0.38, -0.36, 0.34, 0.36), _disc(0.38, 0.36, 0.34, 0.36)),
            *_of("white", _disc(-0.36, -0.5, 0.14), _disc(-0.36, 0.5, 0.14)),
            ("ink", _disc(0.05, 0, 0.62, 0.1)),
            *_of("ink", _bar(-0.5, 0, -0.92, -0.22, 0.05), _bar(-0.5, 0, -0.92, 0.22, 0.05)),
        ),
        max_turn=30,
        plural="butterflies",
    ),
    "flower": Icon(
        (
            ("leaf", _bar(-0.2, 0, 0.96, 0, 0.09)),
            ("leaf", _disc(0.55, 0.22, 0.1, 0.24)),
            *_of(
                "body",
                *(
                    _disc(
                        -0.4 + 0.33 * math.sin(math.radians(a)),
                        0.33 * math.cos(math.radians(a)),
                        0.22,
                    )
                    for a in range(-90, 270, 60)
                ),
            ),
            ("dark", _disc(-0.4, 0, 0.17)),
        ),
        ("red", "pink", "yellow", "purple", "blue", "orange", "white"),
    ),
    "leaf": Icon(
        (
            ("wood", _bar(0.5, 0, 0.97, 0, 0.08)),
            (
                "body",
                _poly(-0.95, 0, -0.5, -0.4, 0.0, -0.52, 0.4, -0.36, 0.66, 0)
                + _poly(0.4, 0.36, 0.0, 0.52, -0.5, 0.4),
            ),
            ("dark", _bar(-0.7, 0, 0.62, 0, 0.06)),
            *_of(
                "dark", *(_bar(y, 0, y - 0.24, 0.3 * s, 0.05) for s in (-1, 1) for y in (-0.1, 0.3))
            ),
        ),
        ("green", "green", "green", "red", "orange", "yellow", "brown"),
        max_turn=60,
        plural="leaves",
    ),
    "mushroom": Icon(
        (
            ("white", _poly(0.0, -0.22, 0.0, 0.22, 0.85, 0.3, 0.85, -0.3)),
            ("body", _disc(0.1, 0, 0.85, 0.85, 180, 360)),
            *_of(
                "white",
                _disc(-0.35, -0.28, 0.13),
                _disc(-0.2, 0.38, 0.12),
                _disc(-0.52, 0.18, 0.09),
            ),
        ),
        ("red", "red", "brown", "orange", "purple", "blue"),
    ),
    "apple": Icon(
        (
            ("wood", _bar(-0.35, 0, -0.92, 0.12, 0.09)),
            ("leaf", _disc(-0.72, 0.3, 0.11, 0.24)),
            *_of("body", _disc(0.12, -0.24, 0.62, 0.5), _disc(0.12, 0.24, 0.62, 0.5)),
            ("light", _disc(-0.1, -0.42, 0.16, 0.09)),
        ),
        ("red", "red", "green", "yellow"),
    ),
    "cherry": Icon(
        (
            *_of("leaf", _bar(0.3, -0.45, -0.85, 0.1, 0.07), _bar(0.4, 0.42, -0.85, 0.1, 0.07)),
            ("leaf", _disc(-0.74, 0.38, 0.12, 0.28)),
            *_of("body", _disc(0.42, -0.48, 0.36), _disc(0.5, 0.42, 0.36)),
            *_of("light", _disc(0.3, -0.58, 0.09), _disc(0.38, 0.32, 0.09)),
        ),
        ("red", "red", "black", "pink"),
        plural="cherries",
        aliases=("cherries",),
    ),
    "carrot": Icon(
        (
            *_of("leaf", *(_bar(-0.35, 0, -0.95, x, 0.12) for x in (-0.3, 0.0, 0.3))),
            (
                "body",
                _poly(-0.4, -0.32, -0.48, -0.15, -0.48, 0.15, -0.4, 0.32, 0.97, 0.03, 0.97, -0.03),
            ),
            *_of("dark", _bar(-0.12, -0.26, -0.1, 0.02, 0.05), _bar(0.22, -0.02, 0.24, 0.17, 0.05)),
        ),
        ("orange", "orange", "purple", "yellow"),
        max_turn=40,
    ),
    "ice cream": Icon(
        (
            ("wood", _poly(-0.05, -0.4, -0.05, 0.4, 0.97, 0.0)),
            ("straw", _poly(0.03, -0.3, 0.03, 0.3, 0.8, 0.0)),
            *_of("body", _disc(-0.38, 0, 0.5), _disc(-0.08, -0.36, 0.16), _disc(-0.08, 0.36, 0.16)),
            ("body", _disc(-0.05, 0, 0.16)),
            ("light", _disc(-0.56, -0.18, 0.12, 0.1)),
        ),
        ("pink", "white", "brown", "yellow", "green", "blue", "purple"),
    ),
    "cake": Icon(
        (
            *_of("white", *(_box(-0.75, x - 0.05, -0.3, x + 0.05) for x in (-0.4, 0.0, 0.4))),
            *_of("flame", *(_disc(-0.83, x, 0.1, 0.06) for x in (-0.4, 0.0, 0.4))),
            ("body", _box(-0.35, -0.72, 0.68, 0.72)),
            (
                "white",
                _poly(-0.35, -0.72, -0.35, 0.72, 0.0, 0.72, -0.12, 0.45, 0.02, 0.2)
                + _poly(-0.12, 0.0, 0.02, -0.22, -0.12, -0.46, 0.0, -0.72),
            ),
            ("metal", _box(0.68, -0.82, 0.78, 0.82)),
        ),
    ),
    "sun": Icon(
        (*_of("body", *_rays(12, 0, 0, 0.4, 0.97, 0.13)), ("body", _disc(0, 0, 0.56))),
        ("yellow", "yellow", "orange", "red"),
        max_turn=15,
    ),
    "cloud": Icon(
        (
            *_of(
                "body", _disc(0.12, -0.55, 0.36), _disc(-0.12, -0.08, 0.48), _disc(0.1, 0.52, 0.4)
            ),
            ("body", _box(0.1, -0.55, 0.48, 0.55)),
        ),
        ("white", "grey", "blue", "black", "pink"),
    ),
    "umbrella": Icon(
        (
            ("wood", _box(-0.9, -0.04, 0.75, 0.04)),
            ("wood", _arc(0.74, 0.14, 0.14, 0.08, 0, 180)),
            ("body", _disc(0.05, 0, 0.85, 0.92, 180, 360)),
            *_of("dark", _poly(-0.8, 0, 0.05, -0.32, 0.05, 0.32)),
        ),
    ),
    "clock": Icon(
        (
            ("body", _disc(0, 0, 0.92)),
            ("white", _disc(0, 0, 0.72)),
            *_of("ink", *_rays(12, 0, 0, 0.58, 0.68, 0.06)),
            *_of("ink", _bar(0.06, 0, -0.5, 0, 0.09), _bar(0, -0.04, 0.14, 0.38, 0.11)),
        ),
    ),
    "lamp": Icon(
        (
            ("metal", _box(-0.1, -0.06, 0.8, 0.06)),
            ("metal", _disc(0.86, 0, 0.1, 0.42)),
            ("body", _poly(-0.9, -0.3, -0.9, 0.3, 0.0, 0.66, 0.0, -0.66)),
        ),
    ),
    "candle": Icon(
        (
            ("flame", _poly(-0.95, 0, -0.7, -0.14, -0.52, -0.1, -0.48, 0, -0.52, 0.1, -0.7, 0.14)),
            ("ink", _bar(-0.6, 0, -0.36, 0, 0.05)),
            ("body", _box(-0.4, -0.24, 0.74, 0.24)),
            ("light", _box(-0.4, -0.24, 0.74, -0.12)),
            ("metal", _disc(0.76, 0, 0.14, 0.5)),
        ),
    ),
    "chair": Icon(
        (
            ("body", _box(-0.95, -0.5, 0.9, -0.34)),
            ("body", _box(0.05, -0.5, 0.2, 0.5)),
            *_of("body", _box(0.1, 0.34, 0.9, 0.5), _box(-0.95, -0.5, -0.78, -0.22)),
            ("dark", _box(0.2, -0.34, 0.26, 0.34)),
            ("dark", _box(0.52, -0.4, 0.6, 0.4)),
        ),
    ),
    "table": Icon(
        (
            ("body", _box(-0.42, -0.95, -0.22, 0.95)),
            ("dark", _box(-0.22, -0.78, -0.1, 0.78)),
            *_of("body", _box(-0.22, -0.8, 0.7, -0.64), _box(-0.22, 0.64, 0.7, 0.8)),
        ),
    ),
    "bed": Icon(
        (
            ("wood", _box(-0.55, -0.95, 0.62, -0.8)),
            ("wood", _box(-0.1, 0.82, 0.62, 0.95)),
            ("wood", _box(0.3, -0.85, 0.42, 0.85)),
            ("body", _box(-0.06, -0.4, 0.32, 0.82)),
            ("white", _box(0.08, -0.8, 0.32, -0.4)),
            ("white", _disc(-0.02, -0.6, 0.14, 0.2)),
        ),
    ),
    "door": Icon(
        (
            ("dark", _box(-0.92, -0.5, 0.92, 0.5)),
            ("body", _box(-0.84, -0.42, 0.92, 0.42)),
            *_of("dark", _box(-0.68, -0.28, -0.1, 0.28), _box(0.14, -0.28, 0.72, 0.28)),
            ("straw", _disc(0.02, 0.34, 0.075)),
        ),
    ),
    "ladder": Icon(
        (
            *_of("body", _box(-0.95, -0.4, 0.95, -0.26), _box(-0.95, 0.26, 0.95, 0.4)),
            *_of(
                "body", *(_box(y, -0.3, y + 0.12, 0.3) for y in (-0.75, -0.38, -0.01, 0.36, 0.71))
            ),
        ),
        max_turn=20,
    ),
    "book": Icon(
        (
            ("body", _box(-0.85, -0.62, 0.85, 0.62)),
            ("white", _poly(0.66, -0.44, 0.66, 0.62, 0.76, 0.62, 0.76, -0.44)),
            ("dark", _box(-0.85, -0.62, 0.85, -0.44)),
            ("white", _box(-0.58, -0.22, -0.18, 0.42)),
            *_of("metal", _box(-0.48, -0.1, -0.42, 0.3), _box(-0.34, -0.1, -0.28, 0.3)),
        ),
    ),
    "envelope": Icon(
        (
            ("body", _box(-0.58, -0.92, 0.58, 0.92)),
            (
                "dark",
                _poly(-0.58, -0.92, 0.16, 0.0, -0.58, 0.92, -0.46, 0.92, 0.28, 0, -0.46, -0.92),
            ),
        ),
    ),
    "pencil": Icon(
        (
            ("coral", _box(-0.16, -0.97, 0.16, -0.8)),
            ("metal", _box(-0.16, -0.8, 0.16, -0.66)),
            ("body", _box(-0.16, -0.66, 0.16, 0.6)),
            ("dark", _box(0.05, -0.66, 0.16, 0.6)),
            ("straw", _poly(-0.16, 0.6, 0.0, 0.97, 0.16, 0.6)),
            ("ink", _poly(-0.055, 0.84, 0.0, 0.98, 0.055, 0.84)),
        ),
        max_turn=60,
    ),
    "scissors": Icon(
        (
            *_of(
                "metal",
                _poly(-0.95, -0.34, 0.2, 0.14, 0.1, 0.24),
                _poly(-0.95, 0.34, 0.2, -0.14, 0.1, -0.24),
            ),
            *_of("body", _arc(0.55, -0.34, 0.26, 0.15), _arc(0.55, 0.34, 0.26, 0.15)),
            *_of("body", _bar(0.1, 0.12, 0.4, -0.18, 0.14), _bar(0.1, -0.12, 0.4, 0.18, 0.14)),
        ),
        max_turn=40,
        plural="scissors",
    ),
    "hammer": Icon(
        (
            ("body", _box(-0.5, -0.1, 0.95, 0.1)),
            (
                "metal",
                _poly(-0.8, -0.5, -0.8, 0.36, -0.62, 0.62, -0.56, 0.36, -0.4, 0.36, -0.4, -0.5),
            ),
        ),
        max_turn=40,
    ),
    "hat": Icon(
        (
            ("body", _disc(0.42, 0, 0.2, 0.95)),
            (
                "body",
                _poly(
                    0.42,
                    -0.52,
                    -0.5,
                    -0.42,
                    -0.6,
                    -0.2,
                    -0.54,
                    0,
                    -0.6,
                    0.2,
                    -0.5,
                    0.42,
                    0.42,
                    0.52,
                ),
            ),
            ("dark", _poly(0.38, -0.515, 0.14, -0.49, 0.14, 0.49, 0.38, 0.515)),
        ),
    ),
    "crown": Icon(
        (
            (
                "body",
                _poly(
                    0.6,
                    -0.75,
                    -0.5,
                    -0.9,
                    -0.02,
                    -0.42,
                    -0.72,
                    0,
                    -0.02,
                    0.42,
                    -0.5,
                    0.9,
                    0.6,
                    0.75,
                ),
            ),
            ("dark", _box(0.36, -0.76, 0.6, 0.76)),
            *_of("body", _disc(-0.52, -0.86, 0.1), _disc(-0.74, 0, 0.1), _disc(-0.52, 0.86, 0.1)),
        ),
    ),
    "shirt": Icon(
        (
            (
                "body",
                _poly(-0.7, -0.3, -0.55, 0, -0.7, 0.3, -0.55, 0.6, -0.05, 0.95, 0.12, 0.68)
                + _poly(-0.1, 0.5, 0.82, 0.5, 0.82, -0.5, -0.1, -0.5, 0.12, -0.68, -0.05, -0.95)
                + _poly(-0.55, -0.6),
            ),
            ("dark", _poly(-0.7, -0.3, -0.44, 0, -0.7, 0.3, -0.62, 0.32, -0.34, 0, -0.62, -0.32)),
        ),
        aliases=("T-shirt",),
    ),
    "shoe": Icon(
        (
            (
                "body",
                _poly(
                    -0.5, -0.9, -0.5, -0.2, -0.1, 0.2, 0.05, 0.8, 0.2, 0.95, 0.4, 0.95, 0.4, -0.9
                ),
            ),
            ("ink", _box(0.36, -0.92, 0.52, 0.95)),
            *_of(
                "white",
                _bar(-0.38, -0.16, -0.24, -0.34, 0.06),
                _bar(-0.2, 0.02, -0.04, -0.16, 0.06),
            ),
            ("dark", _box(-0.5, -0.9, -0.38, -0.2)),
        ),
    ),
    "ball": Icon(
        (
            ("body", _disc(0, 0, 0.9)),
            *_of("white", *(_wedge(0, 0, 0.9, a, a + 60) for a in (-60, 60, 180))),
            ("body", _disc(0, 0, 0.16)),
        ),
        max_turn=60,
    ),
    "balloon": Icon(
        (
            ("ink", _bar(0.3, 0, 0.97, 0.04, 0.04)),
            ("body", _poly(0.42, -0.12, 0.22, 0, 0.42, 0.12)),
            ("body", _disc(-0.3, 0, 0.64, 0.54)),
            ("light", _disc(-0.52, -0.22, 0.18, 0.1)),
        ),
        max_turn=12,
    ),
    "kite": Icon(
        (
            ("ink", _bar(0.4, 0, 0.97, 0.3, 0.04)),
            ("body", _poly(-0.95, 0, -0.2, 0.6, 0.5, 0, -0.2, -0.6)),
            *_of("dark", _bar(-0.95, 0, 0.5, 0, 0.05), _bar(-0.2, -0.6, -0.2, 0.6, 0.05)),
            *_of("dark", _poly(0.62, 0.02, 0.56, 0.24, 0.76, 0.24, 0.84, 0.08)),
        ),
        max_turn=30,
    ),
    "gift": Icon(
        (
            ("body", _box(-0.16, -0.68, 0.85, 0.68)),
            ("body", _box(-0.36, -0.8, -0.1, 0.8)),
            ("dark", _box(-0.1, -0.68, -0.06, 0.68)),
            ("white", _box(-0.36, -0.12, 0.85, 0.12)),
            *_of("white", _arc(-0.54, -0.26, 0.2, 0.12), _arc(-0.54, 0.26, 0.2, 0.12)),
        ),
        aliases=("present",),
    ),
    "flag": Icon(
        (
            ("wood", _box(-0.95, -0.62, 0.95, -0.5)),
            (
                "body",
                _poly(-0.9, -0.5, -0.82, -0.1, -0.92, 0.3, -0.84, 0.75, -0.08, 0.75)
                + _poly(-0.16, 0.3, -0.06, -0.1, -0.14, -0.5),
            ),
        ),
    ),
    "bell": Icon(
        (
            ("dark", _disc(0.62, 0, 0.17)),
            ("dark", _disc(-0.78, 0, 0.15)),
            (
                "body",
                _disc(-0.2, 0, 0.56, 0.5, 180, 360)
                + _poly(0.2, 0.54, 0.6, 0.8, 0.6, -0.8, 0.2, -0.54),
            ),
        ),
        max_turn=20,
    ),
    "phone": Icon(
        (
            ("body", _box(-0.92, -0.48, 0.92, 0.48)),
            ("glass", _box(-0.74, -0.38, 0.62, 0.38)),
            ("light", _disc(0.77, 0, 0.08)),
        ),
        aliases=("mobile phone", "smartphone"),
    ),
    "television": Icon(
        (
            *_of("ink", _bar(-0.45, 0, -0.92, -0.4, 0.06), _bar(-0.45, 0, -0.92, 0.4, 0.06)),
            ("body", _box(-0.5, -0.85, 0.6, 0.85)),
            ("glass", _box(-0.36, -0.7, 0.46, 0.45)),
            *_of("ink", _disc(-0.2, 0.65, 0.09), _disc(0.1, 0.65, 0.09)),
            *_of("ink", _box(0.6, -0.6, 0.76, -0.45), _box(0.6, 0.45, 0.76, 0.6)),
        ),
        aliases=("TV", "tv"),
    ),
    "camera": Icon(
        (
            ("dark", _box(-0.62, -0.3, -0.3, 0.3)),
            ("body", _box(-0.42, -0.88, 0.6, 0.88)),
            ("white", _disc(0.1, 0, 0.4)),
            ("ink", _disc(0.1, 0, 0.3)),
            ("glass", _disc(0.04, -0.06, 0.12)),
            ("straw", _box(-0.32, 0.56, -0.16, 0.76)),
        ),
    ),
    "snowman": Icon(
        (
            *_of("body", _disc(0.46, 0, 0.48), _disc(-0.24, 0, 0.34)),
            *_of("ink", _box(-0.6, -0.36, -0.52, 0.36), _box(-0.95, -0.22, -0.55, 0.22)),
            *_of("ink", _disc(-0.3, -0.12, 0.05), _disc(-0.3, 0.12, 0.05)),
            ("flame", _poly(-0.24, 0, -0.12, 0.34, -0.16, 0)),
            *_of("ink", _disc(0.25, 0, 0.055), _disc(0.46, 0, 0.055), _disc(0.67, 0, 0.055)),
        ),
        ("white", "white", "white", "blue"),
        plural="snowmen",
    ),
    "arrow": Icon(
        (
            (
                "body",
                _poly(
                    -0.16, -0.92, -0.16, 0.2, -0.5, 0.2, 0.0, 0.95, 0.5, 0.2, 0.16, 0.2, 0.16, -0.92
                ),
            ),
        ),
    ),
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
