"""Crops full of print, with dense targets alone: the most labelled characters per second.

A page of any words, numbers and signs is drawn once and cut four times; the channels of every crop
are exchanged, some are inverted, blurred or noisy, so that one page gives four lessons.
"""

import random

import numpy as np
from PIL import Image, ImageDraw

from minicpmv.processing.pixels import resize
from minicpmv.scenes.text import fonts
from minicpmv.scenes.text.labels import (
    GLYPH_CLASSES,
    NO_LABEL,
    NUM_TARGETS,
    ROW,
    TARGETS,
    Printed,
    draw_glyphs,
    following,
)
from minicpmv.scenes.text.lettering import character_widths, ink_and_paper, random_text
from minicpmv.train.pretrain.patches import to_patches

LETTERS = "letters"  # the kind in a stage's mix
NUM_CROPS = 4
MIN_PX, MAX_PX = 11, 72  # font sizes
# Rows and columns of patches, for slices of up to 16 x 16: a square, and what oblong pictures and
# single lines become.
SHAPES = ((16, 16), (16, 16), (11, 23), (23, 11), (13, 19), (8, 32), (6, 42), (5, 51))
_IDS = {character: i for i, character in enumerate(GLYPH_CLASSES)}
Crop = tuple[np.ndarray, tuple[int, int], np.ndarray]


def letter_crops(seed: int, scale_resolution: int, patch_size: int) -> list[Crop]:
    """Four crops of one page.

    Returns:
        For each its patches (num_patches, 3 * patch_size**2) uint8, its rows and columns, and its
        targets (NUM_TARGETS, num_patches) uint8.
    """
    rng = random.Random(f"letters:{seed}")
    side = scale_resolution // patch_size
    fitting = [shape for shape in SHAPES if shape[0] * shape[1] <= side**2]
    rows, cols = rng.choice(fitting or [(side, side)])
    height, width = rows * patch_size, cols * patch_size
    margin = 9 * patch_size if rows > 8 else 3 * patch_size
    image, printed = _page(rng, height + margin, width + margin, patch_size)
    page = np.asarray(image)
    crops = []
    for _ in range(NUM_CROPS):
        top, left = rng.randint(0, margin), rng.randint(0, margin)
        pixels = _disguised(page[top : top + height, left : left + width], rng)
        down, across = top / patch_size, left / patch_size
        labels = np.full((NUM_TARGETS, rows, cols), NO_LABEL, dtype=np.uint8)
        labels[ROW["thing"]] = 0
        seen = []
        for glyph, word_start, line_start in printed:
            seen.append(
                glyph._replace(
                    top=glyph.top - down,
                    bottom=glyph.bottom - down,
                    left=glyph.left - across,
                    right=glyph.right - across,
                    # What begins outside cannot be counted.
                    letter=glyph.letter if word_start >= across else NO_LABEL,
                    word=glyph.word if line_start >= across else NO_LABEL,
                )
            )
        draw_glyphs(labels, seen, patch_size)
        targets = labels.reshape(NUM_TARGETS, -1)
        crops.append((to_patches(pixels, patch_size), (rows, cols), targets))
    return crops


def _page(
    rng: random.Random, height: int, width: int, patch_size: int
) -> tuple[Image.Image, list[tuple[Printed, float, float]]]:
    """A page, and its characters each with the left ends of its word and its line, in patches."""
    ink, paper = ink_and_paper(rng)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    printed = []
    most = min(MAX_PX, height // 2)

    def pick() -> tuple[fonts.Face, int]:
        return fonts.choose("train", rng), round(MIN_PX * (most / MIN_PX) ** rng.random() ** 1.2)

    face, size = pick()
    y = rng.uniform(-6, 10)
    while y < height - 6:
        if rng.random() < 0.25:
            face, size = pick()
        font = fonts.load(face, size)
        ascent, _ = font.getmetrics()
        x = rng.uniform(-size, 1.5 * size)
        text = random_text(rng, "train", int((width - x) / (0.45 * size)) + 4)
        draw.text((x, y), text, font=font, fill=ink)
        middle = y + ascent - 0.36 * size
        word, letter, word_start, right = 1, 0, x, x
        follows = iter(following(text))
        for character, advance in zip(text, character_widths(face, size, text), strict=True):
            left, right = right, right + advance
            if left > width:
                break
            if character == " ":
                word, letter, word_start = word + 1, 0, right
                continue
            letter += 1
            glyph = Printed(
                _IDS[character],
                (middle - 0.42 * size) / patch_size,
                left / patch_size,
                (middle + 0.42 * size) / patch_size,
                right / patch_size,
                min(letter, TARGETS["letter"] - 1),
                min(word, TARGETS["word"] - 1),
                NO_LABEL,
                next(follows),
            )
            printed.append((glyph, word_start / patch_size, x / patch_size))
        y += max(size * rng.uniform(1.1, 1.6), 15)
    return image, printed


def _disguised(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    pixels = pixels[..., rng.sample(range(3), 3)]
    if rng.random() < 0.3:
        pixels = 255 - pixels
    if rng.random() < 0.3:
        generator = np.random.default_rng(rng.getrandbits(32))
        noise = rng.uniform(2, 16) * generator.standard_normal(pixels.shape, dtype=np.float32)
        pixels = (pixels + noise.astype(np.int16)).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.12:
        height, width = pixels.shape[:2]
        share = rng.uniform(0.45, 0.8)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        size = round(share * height), round(share * width)
        pixels = np.asarray(resize(resize(image, size, Image.Resampling.BILINEAR), (height, width)))
    return pixels
