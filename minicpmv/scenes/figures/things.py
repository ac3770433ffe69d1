"""Lay things out on a ground and draw them: shapes and icons, at chosen places.

A `Layout` is a picture not yet drawn. Drawers of single pictures sample one; drawers of pairs and
videos sample one, change a thing in it, and draw both.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from minicpmv.scenes.figures import colours, shapes
from minicpmv.scenes.figures.colours import Rgb
from minicpmv.scenes.figures.icon_parts import ICONS, PAINTS
from minicpmv.scenes.figures.shapes import Point
from minicpmv.scenes.scene import Figure, Scene

NAMES = (*shapes.SHAPES, *ICONS)
SMOOTH_AREA = 320**2  # pictures up to this many pixels are drawn twice as large and reduced
GAP = 0.02  # least distance between two things, as a fraction of the short side
MARGIN = 0.01
NOT_PLAIN = ("ball", "cake", "mushroom", "pencil")  # would not be recognised in one colour


@dataclass(frozen=True)
class Thing:
    """A shape or icon to be drawn; `radius` is a fraction of the short side of the picture."""

    name: str
    colour: str  # "" for a line drawing, whose colour nobody can name
    rgb: Rgb
    centre: Point
    radius: float
    degrees: float = 0.0
    mirrored: bool = False
    style: str = "flat"  # of an icon: also "rim" (a dark one), "plain" (one colour), "line"


@dataclass(frozen=True)
class Ground:
    """What things lie on; it fades to `end` downwards, or sideways."""

    name: str
    rgb: Rgb
    end: Rgb
    sideways: bool = False


@dataclass(frozen=True)
class Layout:
    """A picture not yet drawn; `size` is (height, width) in pixels."""

    size: tuple[int, int]
    ground: Ground
    things: tuple[Thing, ...] = ()

    def with_things(self, things: Sequence[Thing]) -> "Layout":
        """The same ground with other things on it."""
        return dataclasses.replace(self, things=tuple(things))

    def with_thing(self, index: int, **changes: object) -> "Layout":
        """The same picture with one thing changed."""
        things = list(self.things)
        things[index] = dataclasses.replace(things[index], **changes)  # type: ignore[arg-type]
        return self.with_things(things)


def sample_size(rng: random.Random) -> tuple[int, int]:
    """Height and width in pixels: mostly one slice of the model's own 224 x 224."""
    lot = rng.random()
    if lot < 0.45:
        return 224, 224
    side, ratio = 224.0, rng.uniform(0.5, 2.0)
    if lot > 0.8:
        side = rng.uniform(160, 460)
    return int(side / ratio**0.5), int(side * ratio**0.5)


def sample_ground(rng: random.Random) -> Ground:
    """A plain ground, most often pale, one in five fading."""
    if rng.random() < 0.3:
        name, rgb = "pale", rng.choice(colours.TINTS)
    else:
        name = rng.choice(colours.PLAIN_BACKGROUNDS)
        rgb = colours.sample_rgb(name, rng)
    end = rgb
    if rng.random() < 0.2:
        change = rng.choice((-1, 1)) * rng.randint(10, 30)
        red, green, blue = (min(255, max(0, channel + change)) for channel in rgb)
        end = red, green, blue
    return Ground(name, rgb, end, rng.random() < 0.5)


def visible(ground: Ground) -> list[str]:
    """The colours that stand out from the ground in any shade."""
    return [
        name
        for name, anchors in colours.COLOURS.items()
        if name != ground.name
        and all(colours.distance(anchor, ground.rgb) > colours.MIN_DISTANCE for anchor in anchors)
    ]


def colours_for(name: str, seen: Sequence[str]) -> list[str]:
    """Those of the colours `seen` that people give a thing, as often as they do."""
    own = ICONS[name].colours if name in ICONS else ()
    return [colour for colour in own if colour in seen] or list(seen)


def sample_rgb(colour: str, ground: Ground, rng: random.Random) -> Rgb:
    """A shade of `colour` that stands out from the ground."""
    for _attempt in range(8):
        rgb = colours.sample_rgb(colour, rng)
        if colours.distance(rgb, ground.rgb) > 0.8 * colours.MIN_DISTANCE:
            break
    return rgb


def sample_look(name: str, rng: random.Random) -> tuple[float, bool, str]:
    """Degrees, mirrored and style of a thing."""
    icon = ICONS.get(name)
    most = icon.max_turn if icon else shapes.MAX_TURN[name]
    degrees = rng.uniform(-1, 1) * most * (rng.random() < 0.6)
    lot = rng.random()
    if icon:
        style = "flat" if lot < 0.62 else "rim" if lot < 0.8 else "plain" if lot < 0.92 else "line"
        if style == "plain" and name in NOT_PLAIN:
            style = "flat"
    else:
        style = "rim" if lot < 0.15 and name != "ring" else "flat"
    return degrees, icon is not None and rng.random() < 0.4, style


def sample_thing(
    name: str,
    colour: str,
    centre: Point,
    radius: float,
    ground: Ground,
    rng: random.Random,
    *,
    named: bool = False,
) -> Thing:
    """A thing in some shade and style; a line drawing is dark or pale and has no colour, so it is
    not made where the colour must have a name.
    """
    degrees, mirrored, style = sample_look(name, rng)
    if named and style == "line":
        style = "flat"
    rgb = sample_rgb(colour, ground, rng)
    if style == "line":
        colour, rgb = "", (245, 245, 245) if _is_dark(ground.rgb) else (40, 40, 44)
    return Thing(name, colour, rgb, centre, radius, degrees, mirrored, style)


def scatter(
    number: int,
    size: tuple[int, int],
    rng: random.Random,
    radii: Callable[[], float],
) -> list[tuple[Point, float]]:
    """Up to `number` places, (centre, radius), whose surrounding squares keep apart."""
    height, width = size[0] / min(size), size[1] / min(size)
    found: list[tuple[Point, float]] = []
    for _ in range(number):
        for _attempt in range(60):
            radius = radii()
            rim = radius + MARGIN
            y, x = rng.uniform(rim, height - rim), rng.uniform(rim, width - rim)
            if all(
                max(abs(y - other[0]), abs(x - other[1])) > radius + near + GAP
                for other, near in found
            ):
                found.append(((y, x), radius))
                break
    return [((y / height, x / width), radius) for (y, x), radius in found]


def draw(layout: Layout, split: str, seed: int, kind: str = "") -> Scene:
    """Draw the picture, with all its things as figures."""
    height, width = layout.size
    scale = 2 if height * width <= SMOOTH_AREA else 1
    image = _draw_ground(layout.ground, height * scale, width * scale)
    canvas = ImageDraw.Draw(image)
    figures = []
    for thing in layout.things:
        outline = _draw_thing(canvas, thing, layout.ground.rgb, (height * scale, width * scale))
        figures.append(_figure(thing, outline, height * scale, width * scale))
    if scale > 1:
        image = image.reduce(scale)
    return Scene(split, seed, image, layout.ground.name, tuple(figures), kind=kind)


def _draw_ground(ground: Ground, height: int, width: int) -> Image.Image:
    plain = Image.new("RGB", (width, height), ground.rgb)
    if ground.end == ground.rgb:
        return plain
    ramp = Image.linear_gradient("L")  # 256 x 256, black at the top
    if ground.sideways:
        ramp = ramp.transpose(Image.Transpose.ROTATE_90)
    return Image.composite(
        Image.new("RGB", (width, height), ground.end), plain, ramp.resize((width, height))
    )


def _draw_thing(
    canvas: ImageDraw.ImageDraw, thing: Thing, ground: Rgb, size: tuple[int, int]
) -> list[Point]:
    """Paint a thing; returns its outline in pixels, (y, x)."""
    height, width = size
    short = min(size)
    centre = thing.centre[0] * height, thing.centre[1] * width
    radius = thing.radius * short
    if thing.name in shapes.SHAPES:
        outline = shapes.place(thing.name, centre, radius, thing.degrees)
        canvas.polygon([(x - 0.5, y - 0.5) for y, x in outline], fill=thing.rgb)
        if thing.style == "rim":
            _line(canvas, outline, _shade(thing.rgb, 0.6), max(1, round(0.008 * short)))
        return outline
    icon = ICONS[thing.name]
    radius /= icon.reach
    turn = math.radians(thing.degrees)
    sine, cosine = radius * math.sin(turn), radius * math.cos(turn)
    flip = -1 if thing.mirrored else 1
    middle_y, middle_x = centre

    def placed(polygon: Sequence[Point]) -> list[Point]:
        return [
            (middle_y + y * cosine + flip * x * sine, middle_x + flip * x * cosine - y * sine)
            for y, x in polygon
        ]

    pen = max(2, round(0.045 * radius))
    for paint, polygon in icon.parts:
        points = placed(polygon)
        fill = _fill(paint, thing, ground)
        canvas.polygon([(x - 0.5, y - 0.5) for y, x in points], fill=fill)
        if thing.style == "line":
            _line(canvas, points, thing.rgb, pen)
    outline = placed(icon.outline)
    if thing.style == "rim":
        _line(canvas, outline, _shade(thing.rgb, 0.55), pen)
    return outline


def _line(canvas: ImageDraw.ImageDraw, points: Sequence[Point], rgb: Rgb, pen: int) -> None:
    canvas.line([(x - 0.5, y - 0.5) for y, x in (*points, points[0])], fill=rgb, width=pen)


def _fill(paint: str, thing: Thing, ground: Rgb) -> Rgb:
    if thing.style == "line":
        return ground
    if paint == "body":
        return thing.rgb
    if paint == "dark":
        return _mix(thing.rgb, ground, 0.4) if thing.style == "plain" else _shade(thing.rgb, 0.68)
    if thing.style == "plain":
        return ground if paint in ("white", "glass", "light") else thing.rgb
    if paint == "light":
        return _mix(thing.rgb, (255, 255, 255), 0.5)
    if paint == "ink" and _is_dark(ground):
        return 205, 205, 210
    return PAINTS[paint][1]


def _shade(rgb: Rgb, factor: float) -> Rgb:
    if max(rgb) < 70:  # a darker black would not be seen
        return _mix(rgb, (255, 255, 255), 0.3)
    return round(rgb[0] * factor), round(rgb[1] * factor), round(rgb[2] * factor)


def _mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _is_dark(rgb: Rgb) -> bool:
    return 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] < 100


def _figure(thing: Thing, outline: Sequence[Point], height: int, width: int) -> Figure:
    points = tuple(
        (min(1.0, max(0.0, y / height)), min(1.0, max(0.0, x / width))) for y, x in outline
    )
    top, bottom = min(y for y, _ in points), max(y for y, _ in points)
    left, right = min(x for _, x in points), max(x for _, x in points)
    middle = (top + bottom) / 2, (left + right) / 2
    return Figure(thing.name, thing.colour, middle, (top, left, bottom, right), points)
