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


CELLS = 5  # cells per patch side in the coverage target
OFFSET_UNIT = 1 / 8  # of the offset target, in patches
NO_LABEL = 255


class PatchLabels(NamedTuple):
    """What every patch is asked; row-major, uint8, NO_LABEL where a question has no answer.

    `shape`, `colour`, `centre`, `glyph` are class ids, each (rows * cols,). `coverage`
    (CELLS**2, rows * cols) says which cells of the patch belong to a figure: it teaches outlines,
    whatever the colours. `offset` (2, rows * cols) says how far down and to the right the middle of
    the figure lies, 128 for here, in steps of OFFSET_UNIT: it teaches which patches belong
    together.
    """

    shape: np.ndarray
    colour: np.ndarray
    centre: np.ndarray
    glyph: np.ndarray
    coverage: np.ndarray
    offset: np.ndarray


def patch_labels(scene: Scene, rows: int, cols: int) -> PatchLabels:
    """The targets of a scene seen as `rows` x `cols` patches."""
    height, width = rows * CELLS, cols * CELLS
    owner = Image.new("L", (width, height))  # 0, or 1 + the number of the figure seen there
    draw = ImageDraw.Draw(owner)
    centre = np.zeros((rows, cols), dtype=np.uint8)
    for i, figure in enumerate(scene.figures):
        draw.polygon([(x * width - 0.5, y * height - 0.5) for y, x in figure.outline], fill=i + 1)
        y, x = figure.centre
        centre[int(y * rows), int(x * cols)] = 1
    cells = np.asarray(owner).reshape(rows, CELLS, cols, CELLS)
    coverage = (cells > 0).transpose(1, 3, 0, 2).astype(np.uint8)  # (CELLS, CELLS, rows, cols)
    figures = cells[:, CELLS // 2, :, CELLS // 2]  # the middle cell decides
    shape = np.array([0] + [_SHAPE_IDS[f.shape] for f in scene.figures], dtype=np.uint8)[figures]
    colour = np.array([0] + [_COLOUR_IDS[f.colour] for f in scene.figures], dtype=np.uint8)[figures]
    middles = np.array([(0.0, 0.0)] + [f.centre for f in scene.figures]) * (rows, cols)
    here = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1) + 0.5
    steps = np.round((middles[figures] - here) / OFFSET_UNIT) + 128
    offset = np.where(figures[..., None] > 0, steps.clip(0, 254), NO_LABEL).astype(np.uint8)
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
            coverage[:, :, *area] = NO_LABEL  # the ink has no outline here
    return PatchLabels(
        shape.ravel(),
        colour.ravel(),
        centre.ravel(),
        glyph.ravel(),
        coverage.reshape(CELLS**2, -1),
        offset.reshape(-1, 2).T,
    )
