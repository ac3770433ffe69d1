"""Dense targets: what lies under every patch of a scene, or of one slice of it.

They teach the vision tower before and beside the language loss, standing in for a pre-trained
encoder, and are dropped afterwards.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.icons import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.scene import Box, Lettering, Scene
from minicpmv.scenes.text.lettering import PRINTABLE

CELLS = 5  # cells per patch side in the coverage target
OFFSET_UNIT = 1 / 8  # of the offset target, in patches
NO_LABEL = 255
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
# Printed lines lower than this many pixels are not asked for: nobody could read them.
MIN_LINE_PX = 9

# Class 0 of every target is "nothing here".
THING_CLASSES = ("", *SHAPES, *ICONS, "text")
COLOUR_CLASSES = ("", *COLOURS)
GLYPH_CLASSES = ("", *PRINTABLE)
CLASSES = {  # of the targets whose classes have names
    "thing": THING_CLASSES,
    "colour": COLOUR_CLASSES,
    "left glyph": GLYPH_CLASSES,  # a patch may hold two narrow characters
    "right glyph": GLYPH_CLASSES,
    "centre": ("", "<point>"),  # a mark to count
}
NUM_PLACES = 16  # bins per axis for the middle of a figure
ENDS = {"row": ("top", "bottom"), "column": ("left", "right")}  # of an axis, by target
TARGETS: dict[str, int] = {  # number of classes
    "thing": len(THING_CLASSES),
    "colour": len(COLOUR_CLASSES),
    "centre": 2,  # whether the middle of a figure lies in this patch: what counting needs
    "left glyph": len(GLYPH_CLASSES),
    "right glyph": len(GLYPH_CLASSES),
    "letter": 17,  # the number of the character within its word
    "word": 9,  # of the word within its line
    "line": 17,  # of the line
    "row": NUM_PLACES + 1,  # where in the slice the middle of the figure lies
    "column": NUM_PLACES + 1,
}
ROW = {name: i for i, name in enumerate(TARGETS)}
# What stands in the rows after them.
COVERAGE = slice(len(TARGETS), len(TARGETS) + CELLS**2)
OFFSET = slice(COVERAGE.stop, COVERAGE.stop + 2)
FOLLOWING = slice(OFFSET.stop, OFFSET.stop + 2)  # for the left and the right glyph
NUM_TARGETS = FOLLOWING.stop
# What may follow a glyph in its line: another, a space and another, or the end.
FOLLOWING_CLASSES = ("", *PRINTABLE, *(f" {glyph}" for glyph in PRINTABLE), "\n")
_THING_IDS = {name: i for i, name in enumerate(THING_CLASSES)}
_COLOUR_IDS = {name: i for i, name in enumerate(COLOUR_CLASSES)}
_GLYPH_IDS = {name: i for i, name in enumerate(GLYPH_CLASSES)}
_FOLLOWING_IDS = {name: i for i, name in enumerate(FOLLOWING_CLASSES)}


class Printed(NamedTuple):
    """One character on the patch grid; lengths in patches, ordinals from 1, NO_LABEL if unknown."""

    character: int  # id in `GLYPH_CLASSES`
    top: float
    left: float
    bottom: float
    right: float
    letter: int
    word: int
    line: int
    following: int  # id in `FOLLOWING_CLASSES`


def following(text: str) -> list[int]:
    """For every character of a line but the spaces, the class of what follows it."""
    words = text.split()
    follows = [
        after
        for number, word in enumerate(words, start=1)
        for after in (*word[1:], f" {words[number][0]}" if number < len(words) else "\n")
    ]
    return [_FOLLOWING_IDS[after] for after in follows]


def patch_labels(scene: Scene, rows: int, cols: int, window: Box = WHOLE) -> np.ndarray:
    """The targets of a scene, or of the `window` of it, seen as `rows` x `cols` patches.

    Returns:
        (NUM_TARGETS, rows * cols) uint8, NO_LABEL where a question has no answer: the classes of
        `TARGETS`; then which of the CELLS x CELLS cells of the patch belong to a figure, which
        teaches outlines whatever the colours; then how far down and to the right the middle of the
        figure lies, 128 for here, in steps of OFFSET_UNIT, which teaches what belongs together;
        then what follows the two glyphs, which teaches the order of print.
    """
    labels = np.full((NUM_TARGETS, rows, cols), NO_LABEL, dtype=np.uint8)
    _draw_figures(labels, scene, window)
    draw_glyphs(labels, _printed(scene.texts, rows, cols, window))
    return labels.reshape(NUM_TARGETS, -1)


def _draw_figures(labels: np.ndarray, scene: Scene, window: Box) -> None:
    rows, cols = labels.shape[1:]
    top, left, bottom, right = window
    height, width = rows * CELLS, cols * CELLS
    owner = Image.new("L", (width, height))  # 0, or 1 + the number of the figure seen there
    draw = ImageDraw.Draw(owner)
    centre = np.zeros((rows, cols), dtype=np.uint8)
    middles = np.zeros((len(scene.figures) + 1, 2))  # in the window, as fractions of it
    for i, figure in enumerate(scene.figures):
        outline = [
            (
                (x - left) / (right - left) * width - 0.5,
                (y - top) / (bottom - top) * height - 0.5,
            )
            for y, x in figure.outline
        ]
        draw.polygon(outline, fill=i + 1)
        y, x = figure.centre
        middles[i + 1] = (y - top) / (bottom - top), (x - left) / (right - left)
        if middles[i + 1].min() >= 0 and middles[i + 1].max() < 1:
            centre[int(middles[i + 1, 0] * rows), int(middles[i + 1, 1] * cols)] = 1
    cells = np.asarray(owner).reshape(rows, CELLS, cols, CELLS)
    figures = cells[:, CELLS // 2, :, CELLS // 2]  # the middle cell decides
    things = [0] + [_THING_IDS[figure.shape] for figure in scene.figures]
    colours = [0] + [_COLOUR_IDS.get(figure.colour, NO_LABEL) for figure in scene.figures]
    labels[ROW["thing"]] = np.array(things, dtype=np.uint8)[figures]
    labels[ROW["colour"]] = np.array(colours, dtype=np.uint8)[figures]
    labels[ROW["centre"]] = centre
    places = np.floor(middles[figures] * NUM_PLACES)  # (rows, cols, 2)
    seen = (figures > 0)[..., None] & (places >= 0) & (places < NUM_PLACES)
    places = np.where(seen, places + 1, NO_LABEL)
    labels[ROW["row"]], labels[ROW["column"]] = places[..., 0], places[..., 1]
    coverage = (cells > 0).transpose(1, 3, 0, 2)
    labels[COVERAGE] = coverage.reshape(CELLS**2, rows, cols)
    here = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1) + 0.5
    steps = np.round((middles[figures] * (rows, cols) - here) / OFFSET_UNIT) + 128
    offset = np.where(figures[..., None] > 0, steps.clip(0, 254), NO_LABEL)
    labels[OFFSET] = offset.transpose(2, 0, 1)


def _printed(texts: Iterable[Lettering], rows: int, cols: int, window: Box) -> Iterable[Printed]:
    top, left, bottom, right = window
    down, across = rows / (bottom - top), cols / (right - left)
    for number, text in enumerate(texts, start=1):
        glyphs = zip(text.glyphs, following(text.text), strict=True)
        for word_number, word in enumerate(text.text.split(), start=1):
            for letter_number, character in enumerate(word, start=1):
                glyph, after = next(glyphs)
                box = glyph.box
                yield Printed(
                    _GLYPH_IDS[character],
                    (box[0] - top) * down,
                    (box[1] - left) * across,
                    (box[2] - top) * down,
                    (box[3] - left) * across,
                    min(letter_number, TARGETS["letter"] - 1),
                    min(word_number, TARGETS["word"] - 1),
                    min(number, TARGETS["line"] - 1),
                    after,
                )


def draw_glyphs(labels: np.ndarray, printed: Iterable[Printed], patch_size: int = 14) -> None:
    """Write characters into the (NUM_TARGETS, rows, cols) targets of a slice.

    Half a patch has the character whose middle lies there, else the one that covers its middle.
    """
    rows, cols = labels.shape[1:]
    first = ROW["left glyph"]
    ordinals = slice(ROW["letter"], ROW["line"] + 1)
    here = [p for p in printed if p.bottom > 0 and p.top < rows and p.right > 0 and p.left < cols]
    labels[first : first + 2] = 0
    labels[FOLLOWING] = 0
    labels[ordinals] = 0
    for middles in (False, True):
        for glyph in here:
            lines: Sequence[int]
            halves: Sequence[int]
            if middles:
                y, x = (glyph.top + glyph.bottom) / 2, (glyph.left + glyph.right) / 2
                lines, halves = [int(y // 1)], [int(2 * x // 1)]
            else:
                lines = range(*_covered(glyph.top, glyph.bottom, rows))
                halves = range(*_covered(2 * glyph.left, 2 * glyph.right, 2 * cols))
            legible = (glyph.bottom - glyph.top) * patch_size >= MIN_LINE_PX
            for line in lines:
                for half in halves:
                    if not (0 <= line < rows and 0 <= half < 2 * cols):
                        continue
                    place = line, half // 2
                    labels[ROW["thing"], *place] = _THING_IDS["text"]
                    labels[ROW["colour"] : ROW["centre"] + 1, *place] = NO_LABEL
                    labels[COVERAGE, *place] = NO_LABEL  # the ink has no outline here
                    labels[first + half % 2, *place] = glyph.character if legible else NO_LABEL
                    after = glyph.following if legible and glyph.right < cols else NO_LABEL
                    labels[FOLLOWING.start + half % 2, *place] = after
                    known = (glyph.letter, glyph.word, glyph.line)
                    labels[ordinals, *place] = known if legible else (NO_LABEL,) * 3


def _covered(low: float, high: float, count: int) -> tuple[int, int]:
    """The range of cells whose middle lies between `low` and `high`."""
    return max(0, int(np.ceil(low - 0.5))), min(count, int(np.ceil(high - 0.5)))
