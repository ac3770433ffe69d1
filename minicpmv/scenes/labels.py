"""Dense targets: what lies under the middle of every patch of a scene.

They teach the vision tower before and beside the language loss, standing in for a pre-trained
encoder, and are dropped afterwards.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from minicpmv.scenes.colours import COLOURS
from minicpmv.scenes.render import LETTERS
from minicpmv.scenes.scene import Scene
from minicpmv.scenes.shapes import SHAPES

# Class 0 of every target is "nothing here".
SHAPE_CLASSES = ("", *SHAPES, "text")
COLOUR_CLASSES = ("", *COLOURS)
GLYPH_CLASSES = ("", *"0123456789", *LETTERS, *LETTERS.lower())
CENTRE_CLASSES = 2  # whether the middle of a figure lies in this patch: what counting needs
_SHAPE_IDS = {name: i for i, name in enumerate(SHAPE_CLASSES)}
_COLOUR_IDS = {name: i for i, name in enumerate(COLOUR_CLASSES)}
_GLYPH_IDS = {name: i for i, name in enumerate(GLYPH_CLASSES)}


class PatchLabels(NamedTuple):
    """Class ids, each of shape (rows * cols,), row-major, uint8."""

    shape: np.ndarray
    colour: np.ndarray
    centre: np.ndarray
    glyph: np.ndarray


def patch_labels(scene: Scene, rows: int, cols: int) -> PatchLabels:
    """The targets of a scene seen as `rows` x `cols` patches."""
    sub = 3  # points per patch side; the middle one decides
    height, width = rows * sub, cols * sub
    owner = Image.new("L", (width, height))  # 0, or 1 + the number of the figure seen there
    draw = ImageDraw.Draw(owner)
    centre = np.zeros((rows, cols), dtype=np.uint8)
    for i, figure in enumerate(scene.figures):
        draw.polygon([(x * width - 0.5, y * height - 0.5) for y, x in figure.outline], fill=i + 1)
        y, x = figure.centre
        centre[int(y * rows), int(x * cols)] = 1
    figures = np.asarray(owner)[sub // 2 :: sub, sub // 2 :: sub]
    shape = np.array([0] + [_SHAPE_IDS[f.shape] for f in scene.figures], dtype=np.uint8)[figures]
    colour = np.array([0] + [_COLOUR_IDS[f.colour] for f in scene.figures], dtype=np.uint8)[figures]
    glyph = np.zeros((rows, cols), dtype=np.uint8)
    for text in scene.texts:
        for printed in text.glyphs:
            top, left, bottom, right = printed.box
            area = (
                slice(round(top * rows), max(round(bottom * rows), round(top * rows) + 1)),
                slice(round(left * cols), max(round(right * cols), round(left * cols) + 1)),
            )
            shape[area] = _SHAPE_IDS["text"]
            glyph[area] = _GLYPH_IDS[printed.character]
    return PatchLabels(shape.ravel(), colour.ravel(), centre.ravel(), glyph.ravel())
