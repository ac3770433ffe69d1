"""Make a picture look photographed, scanned or sent around, and keep its facts true.

Light and lens first, then geometry, then the camera's noise and the file's compression. What moves
the pixels moves every box and outline with them, and nothing leaves the picture. How much detail
may be lost is measured by the smallest print on the picture.
"""

import dataclasses
import io
import math
import random
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageFilter

from minicpmv.scenes.figures.shapes import Point
from minicpmv.scenes.scene import Box, Figure, Glyph, Lettering, Scene

MAX_TURN = 5.0  # degrees either way
MAX_SKEW = 0.06  # how far a corner may wander, as a fraction of the side
LEGIBLE_PX = 10.0  # print is not made lower than this
EDGE = 0.004  # what was inside the picture stays this far inside
SQUARE = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))


def degrade(scene: Scene, rng: random.Random, strength: float = 0.5) -> Scene:
    """The same scene, seen worse: one to four things happen to the picture.

    Args:
        strength: 0 (hardly anything) to 1 (as bad as a hasty photograph).

    Raises:
        ValueError: `strength` is outside 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; expected 0 to 1.")
    steps = [
        (_light, 0.35),
        (_shadow, 0.2),
        (_warp, 0.4),
        (_blur, 0.3),
        (_shrink, 0.25),
        (add_noise, 0.35),
        (compress, 0.45),
    ]
    chosen = [step for step, chance in steps if rng.random() < chance]
    if _blur in chosen and _shrink in chosen:  # one after the other would leave too little
        chosen.remove(_shrink)
    for step in chosen or [rng.choice(steps)[0]]:
        scene = step(scene, rng, strength)
    return scene


def _with_image(scene: Scene, image: Image.Image) -> Scene:
    return dataclasses.replace(scene, image=image)


def detail_px(scene: Scene) -> float:
    """Height in pixels of the smallest print; without any, a part of the smallest figure."""
    height, width = scene.image.height, scene.image.width
    heights = [(text.box[2] - text.box[0]) * height for text in scene.texts]
    sizes = [
        min((f.box[2] - f.box[0]) * height, (f.box[3] - f.box[1]) * width) / 2
        for f in scene.figures
    ]
    return min(heights + sizes, default=16.0)


def _light(scene: Scene, rng: random.Random, strength: float) -> Scene:
    """Brightness, contrast and colour temperature, falling off to one side or the corners."""
    depth = rng.uniform(0.05, 0.08 + 0.2 * strength)
    if rng.random() < 0.7:
        ramp = _ramp(scene.image.height, scene.image.width, rng)
    else:
        y = np.linspace(-1, 1, scene.image.height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, scene.image.width, dtype=np.float32)[None]
        ramp = (y * y + x * x) / 2
    warmth = rng.uniform(-0.05, 0.05) * strength
    tint = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32)
    lift = rng.uniform(0, 20) * strength  # a grey veil
    pixels = np.asarray(scene.image, dtype=np.float32)
    pixels = lift + pixels * ((1 - depth * ramp)[..., None] * (tint * (1 - lift / 255)))
    return _with_image(scene, _to_image(pixels))


def _ramp(height: int, width: int, rng: random.Random) -> np.ndarray:
    """0 at one side to 1 at the other, in any direction; (height, width)."""
    angle = rng.uniform(0, 2 * math.pi)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * math.sin(angle)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] * math.cos(angle)
    ramp = y + x
    return (ramp - ramp.min()) / (ramp.max() - ramp.min() + 1e-6)


def _shadow(scene: Scene, rng: random.Random, strength: float) -> Scene:
    """Half the picture lies in a soft shadow."""
    width = rng.uniform(0.02, 0.15)
    border = rng.uniform(0.25, 0.75)
    ramp = _ramp(scene.image.height, scene.image.width, rng)
    shade = ((ramp - border) / width).clip(0, 1)
    # White must not turn grey, where somebody might ask.
    depth = rng.uniform(0.08, 0.1 + (0.12 if scene.figures else 0.25) * strength)
    pixels = np.asarray(scene.image, dtype=np.float32) * (1 - depth * shade)[..., None]
    return _with_image(scene, _to_image(pixels))


def _blur(scene: Scene, rng: random.Random, strength: float) -> Scene:
    radius = rng.uniform(0.02, 0.03 + 0.05 * strength) * min(40.0, detail_px(scene))
    return _with_image(scene, scene.image.filter(ImageFilter.GaussianBlur(radius)))


def _shrink(scene: Scene, rng: random.Random, strength: float) -> Scene:
    """Made smaller and large again."""
    least = max(LEGIBLE_PX / detail_px(scene), 0.9 - 0.45 * strength)
    if least >= 0.98:
        return scene
    factor = rng.uniform(least, 0.98)
    height, width = scene.image.height, scene.image.width
    small = scene.image.resize(
        (max(1, round(width * factor)), max(1, round(height * factor))),
        rng.choice((Image.Resampling.BILINEAR, Image.Resampling.BOX)),
    )
    return _with_image(scene, small.resize((width, height), Image.Resampling.BILINEAR))


def add_noise(scene: Scene, rng: random.Random, strength: float) -> Scene:
    """The camera's grain."""
    generator = np.random.default_rng(rng.getrandbits(32))
    height, width = scene.image.height, scene.image.width
    channels = rng.choice((1, 3))
    deviation = rng.uniform(2, 4 + 10 * strength)
    noise = generator.standard_normal((height, width, channels), dtype=np.float32) * deviation
    return _with_image(scene, _to_image(np.asarray(scene.image) + noise))


def compress(scene: Scene, rng: random.Random, strength: float) -> Scene:
    """Saved as a JPEG file and read again."""
    file = io.BytesIO()
    scene.image.save(file, "JPEG", quality=rng.randint(round(70 - 45 * strength), 85))
    with Image.open(file) as image:
        return _with_image(scene, image.convert("RGB"))


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _warp(scene: Scene, rng: random.Random, strength: float) -> Scene:
    """Turned a little, seen from aside, or both; now and then as a sheet on a desk."""
    height, width = scene.image.height, scene.image.width
    turn = rng.uniform(-1, 1) * MAX_TURN * strength * (rng.random() < 0.75)
    skew = MAX_SKEW * strength * (rng.random() < 0.5)
    wander = [(rng.uniform(0, skew), rng.uniform(0, skew)) for _ in SQUARE]
    on_desk = rng.random() < 0.3
    points = list(SQUARE) if on_desk else list(_points(scene))
    for _attempt in range(6):
        corners = _seen_corners(turn, wander, height, width)
        moved = map(_mover(_projection(SQUARE, corners)), points)
        spread = max((abs(part - 0.5) for point in moved for part in point), default=0)
        if spread <= 0.5 - EDGE or spread < 0.55:
            break
        turn, wander = turn / 2, [(y / 2, x / 2) for y, x in wander]
    else:
        return scene
    if spread > 0.5 - EDGE:  # step back until everything is seen
        zoom = (0.5 - EDGE) / spread
        corners = [(0.5 + zoom * (y - 0.5), 0.5 + zoom * (x - 0.5)) for y, x in corners]
    back = _projection(corners, SQUARE)
    # Pillow wants, for every pixel (x, y) of the new picture, its place in the old one.
    flip = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    scale = np.diag([width, height, 1.0])
    matrix = scale @ flip @ back @ flip @ np.linalg.inv(scale)
    coefficients = (matrix / matrix[2, 2]).ravel()[:8].tolist()
    background = scene.background
    if on_desk:
        level = rng.randint(20, 120)
        fill = level + rng.randint(0, 40), level + rng.randint(0, 20), level
        background = ""  # the sheet's or the desk's?
    else:
        fill = _border_colour(scene.image)
    image = scene.image.transform(
        (width, height),
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BICUBIC,
        fillcolor=fill,
    )
    return _moved(scene, image, background, _mover(_projection(SQUARE, corners)))


def _points(scene: Scene) -> Iterable[Point]:
    """What must stay inside the picture."""
    for text in scene.texts:
        yield from _corners(text.box)
    for figure in scene.figures:
        yield from _corners(figure.box)
    # Lines and bars reach further than the print.
    if len(scene.texts) > 1 or not (scene.texts or scene.figures):
        yield from SQUARE


def _corners(box: Box) -> tuple[Point, Point, Point, Point]:
    top, left, bottom, right = box
    return (top, left), (top, right), (bottom, right), (bottom, left)


def _seen_corners(
    degrees: float, wander: list[Point], height: int, width: int
) -> list[tuple[float, float]]:
    """Where the corners of the picture go: inwards by `wander`, then around the middle."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    corners = []
    for (y, x), (down, across) in zip(SQUARE, wander, strict=True):
        y_px = (y + (down if y == 0 else -down) - 0.5) * height
        x_px = (x + (across if x == 0 else -across) - 0.5) * width
        corners.append(
            (
                0.5 + (y_px * cosine + x_px * sine) / height,
                0.5 + (x_px * cosine - y_px * sine) / width,
            )
        )
    return corners


def _projection(sources: Iterable[Point], targets: Iterable[Point]) -> np.ndarray:
    """The projective map of four points to four others, (3, 3), for columns (y, x, 1)."""
    rows, values = [], []
    for (y, x), (down, across) in zip(sources, targets, strict=True):
        rows.append([y, x, 1, 0, 0, 0, -down * y, -down * x])
        rows.append([0, 0, 0, y, x, 1, -across * y, -across * x])
        values += [down, across]
    solved = np.linalg.solve(np.array(rows, dtype=float), np.array(values, dtype=float))
    return np.append(solved, 1.0).reshape(3, 3)


def _mover(matrix: np.ndarray) -> Callable[[Point], Point]:
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()

    def move(point: Point) -> Point:
        y, x = point
        depth = g * y + h * x + i
        return (a * y + b * x + c) / depth, (d * y + e * x + f) / depth

    return move


def _border_colour(image: Image.Image) -> tuple[int, int, int]:
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = (int(channel) for channel in np.median(border, axis=0))
    return red, green, blue


def _moved(
    scene: Scene, image: Image.Image, background: str, move: Callable[[Point], Point]
) -> Scene:
    """The scene with every place moved."""
    return dataclasses.replace(
        scene,
        image=image,
        background=background,
        figures=tuple(_moved_figure(figure, move) for figure in scene.figures),
        texts=tuple(_moved_text(text, move) for text in scene.texts),
    )


def _moved_figure(figure: Figure, move: Callable[[Point], Point]) -> Figure:
    outline = tuple(map(move, figure.outline))
    box = _box(outline)
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return dataclasses.replace(figure, centre=middle, box=box, outline=outline)


def _moved_text(text: Lettering, move: Callable[[Point], Point]) -> Lettering:
    glyphs = tuple(Glyph(g.character, _moved_box(g.box, move)) for g in text.glyphs)
    return dataclasses.replace(text, box=_moved_box(text.box, move), glyphs=glyphs)


def _moved_box(box: Box, move: Callable[[Point], Point]) -> Box:
    """Around the middle of the moved box, with the height and width of its middle lines: a line
    that leans a little is not taller for it.
    """
    top_left, top_right, bottom_right, bottom_left = map(move, _corners(box))
    return _box(
        (
            _between(top_left, top_right),
            _between(bottom_left, bottom_right),
            _between(top_left, bottom_left),
            _between(top_right, bottom_right),
        )
    )


def _between(first: Point, second: Point) -> Point:
    return (first[0] + second[0]) / 2, (first[1] + second[1]) / 2


def _box(points: Iterable[Point]) -> Box:
    ys, xs = zip(*points, strict=True)
    return (
        min(1.0, max(0.0, min(ys))),
        min(1.0, max(0.0, min(xs))),
        min(1.0, max(0.0, max(ys))),
        min(1.0, max(0.0, max(xs))),
    )
