"""The shapes that scenes draw, each as one polygon inside the unit circle, (y, x) with y
downwards.
"""

import math

Point = tuple[float, float]


def _regular(corners: int, phase: float = -math.pi / 2, radius: float = 1.0) -> list[Point]:
    step = 2 * math.pi / corners
    return [
        (radius * math.sin(phase + step * i), radius * math.cos(phase + step * i))
        for i in range(corners)
    ]


def _star() -> list[Point]:
    outer, inner = _regular(5), _regular(5, -math.pi / 2 + math.pi / 5, 0.42)
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _heart() -> list[Point]:
    points = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((-(y + 2.5) / 16.5, x / 16.5))
    return points


def _cross() -> list[Point]:
    arm, reach = 0.3, 0.95
    quarter = [(-arm, reach), (arm, reach), (arm, arm)]
    points = []
    for turn in range(4):
        for y, x in quarter:
            for _ in range(turn):
                y, x = x, -y
            points.append((y, x))
    return points


def _ring() -> list[Point]:
    # One polygon with a slit: out along the rim, back along the hole.
    outer = [*_regular(48), _regular(48)[0]]
    inner = [(0.55 * y, 0.55 * x) for y, x in reversed(outer)]
    return outer + inner


def _moon() -> list[Point]:
    # The disc without a second disc of radius 0.85 shifted to the right by 0.5.
    cut = math.acos((1 + 0.5**2 - 0.85**2) / (2 * 0.5))
    outer = [cut + (2 * math.pi - 2 * cut) * i / 40 for i in range(41)]
    points = [(math.sin(angle), math.cos(angle)) for angle in outer]
    tip_y, tip_x = points[-1]
    start = math.atan2(tip_y, tip_x - 0.5) % (2 * math.pi)
    end = 2 * math.pi - start
    inner = [start + (end - start) * i / 40 for i in range(41)]
    points += [(0.85 * math.sin(angle), 0.5 + 0.85 * math.cos(angle)) for angle in inner]
    return points


SHAPES: dict[str, list[Point]] = {
    "circle": _regular(64),
    "square": _regular(4, math.pi / 4),
    "rectangle": [(-0.45, -0.9), (-0.45, 0.9), (0.45, 0.9), (0.45, -0.9)],
    "triangle": _regular(3),
    "diamond": [(-1.0, 0.0), (0.0, 0.62), (1.0, 0.0), (0.0, -0.62)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "ring": _ring(),
    "moon": _moon(),
}
# How far a shape may be turned before people would call it something else, in degrees either way.
MAX_TURN = {
    "circle": 0,
    "square": 12,
    "rectangle": 12,
    "triangle": 25,
    "diamond": 8,
    "star": 36,
    "heart": 20,
    "cross": 10,
    "ring": 180,
    "moon": 180,
}


def place(shape: str, centre: Point, radius: float, degrees: float) -> list[Point]:
    """The polygon of `shape` turned by `degrees` around `centre`, (y, x) as `radius`."""
    turn = math.radians(degrees)
    sine, cosine = math.sin(turn), math.cos(turn)
    return [
        (
            centre[0] + radius * (y * cosine + x * sine),
            centre[1] + radius * (x * cosine - y * sine),
        )
        for y, x in SHAPES[shape]
    ]
