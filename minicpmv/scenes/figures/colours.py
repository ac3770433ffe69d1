"""The colours that scenes name, each with a few anchors that people draw when they say the word."""

import random

Rgb = tuple[int, int, int]

COLOURS: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (220, 40, 40), (200, 20, 30)),
    "orange": ((255, 165, 0), (245, 135, 20), (255, 120, 0)),
    "yellow": ((255, 255, 0), (250, 220, 40), (240, 210, 20)),
    "green": ((0, 128, 0), (40, 160, 60), (0, 200, 0), (0, 255, 0)),
    "blue": ((0, 0, 255), (40, 90, 220), (30, 60, 160), (65, 105, 225)),
    "purple": ((128, 0, 128), (130, 50, 170), (150, 60, 200)),
    "pink": ((255, 105, 180), (250, 140, 190), (255, 180, 200)),
    "brown": ((139, 69, 19), (130, 80, 40), (110, 60, 25)),
    "black": ((0, 0, 0), (25, 25, 25)),
    "white": ((255, 255, 255), (246, 246, 246)),
    "grey": ((128, 128, 128), (150, 150, 150), (110, 110, 110)),
}
# What figures are drawn on: mostly pale, as paper and screens are. Pale tints are called by their
# plain name only where nobody would object (cream and sky have no name here and are never asked
# about).
PLAIN_BACKGROUNDS = ("white", "white", "white", "black", "grey", "yellow", "blue", "green", "pink")
TINTS: tuple[Rgb, ...] = (
    (250, 244, 225),
    (225, 238, 250),
    (232, 232, 236),
    (228, 245, 230),
    (245, 230, 238),
)
JITTER = 14  # how far a channel may stray from its anchor, of 255
MIN_DISTANCE = 90.0  # least Euclidean RGB distance of a figure from its background


def sample_rgb(name: str, rng: random.Random) -> Rgb:
    """A colour that people would call `name`."""
    anchor = rng.choice(COLOURS[name])
    if name in ("black", "white"):  # a jittered white soon reads as a tint
        shift = rng.randint(0, JITTER) * (1 if name == "black" else -1)
        red, green, blue = (min(255, max(0, channel + shift)) for channel in anchor)
    else:
        red, green, blue = (
            min(255, max(0, channel + rng.randint(-JITTER, JITTER))) for channel in anchor
        )
    return red, green, blue


def distance(first: Rgb, second: Rgb) -> float:
    """Euclidean distance in RGB, 0 to 441."""
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5
