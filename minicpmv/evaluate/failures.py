"""A contact sheet of wrong answers: what was shown, asked, true and answered, worst first."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.measures import Result
from minicpmv.scenes import Example

COLUMNS = 5
TILE_WIDTH, PICTURE_HEIGHT, LINE_HEIGHT = 280, 190, 15  # pixels
FONT_SIZE_PX = 12
CHARACTERS, LINES = 42, 3  # of a question, a truth or an answer
PAPER, INK, RIGHT, WRONG = (255, 255, 255), (30, 30, 30), (0, 110, 40), (190, 20, 20)


@dataclass(frozen=True)
class _Tile:
    title: str
    picture: Image.Image
    question: str
    truth: str
    answer: str


class ContactSheet:
    """Collects the worst answers of each part, and draws them."""

    def __init__(self) -> None:
        self._tiles: list[_Tile] = []

    def add(
        self, part: str, results: Sequence[Result], shown: Sequence[Item], most: int = COLUMNS
    ) -> None:
        """Keep up to `most` answers of a part that are not wholly right.

        Args:
            results: the answers; shown: their items with the pictures that the model saw.
        """
        wrong = [
            (score, answer, item, example)
            for result, item in zip(results, shown, strict=True)
            for score, answer, example in zip(
                result.scores, result.answers, item.examples, strict=True
            )
            if score < 1
        ]
        for score, answer, item, example in sorted(wrong, key=lambda each: each[0])[:most]:
            turn = example.turns[-1]
            self._tiles.append(
                _Tile(
                    f"{part}, seed {item.seed}, score {score:.2f}",
                    _side_by_side(example),
                    turn.question,
                    turn.answer,
                    answer,
                )
            )

    def save(self, path: Path) -> int:
        """Write the sheet as a PNG, and say how many answers are on it."""
        height = PICTURE_HEIGHT + (3 * LINES + 2) * LINE_HEIGHT
        rows = max(1, math.ceil(len(self._tiles) / COLUMNS))
        sheet = Image.new("RGB", (COLUMNS * TILE_WIDTH, rows * height), PAPER)
        for index, tile in enumerate(self._tiles):
            row, column = divmod(index, COLUMNS)
            _draw(sheet, tile, row * height, column * TILE_WIDTH)
        sheet.save(path, format="PNG")
        return len(self._tiles)


def _side_by_side(example: Example) -> Image.Image:
    """All pictures of an example, small, in a row."""
    number = len(example.scenes)
    room = (TILE_WIDTH - 8) // number - 2, PICTURE_HEIGHT - 4  # width, height
    strip = Image.new("RGB", (TILE_WIDTH - 8, PICTURE_HEIGHT - 4), PAPER)
    for index, scene in enumerate(example.scenes):
        small = scene.image.convert("RGB")
        small.thumbnail(room)
        strip.paste(small, (index * (room[0] + 2), 0))
    return strip


def _draw(sheet: Image.Image, tile: _Tile, top: int, left: int) -> None:
    font = ImageFont.load_default(FONT_SIZE_PX)
    draw = ImageDraw.Draw(sheet)
    left += 4
    draw.text((left, top + 2), tile.title, fill=INK, font=font)
    sheet.paste(tile.picture, (left, top + LINE_HEIGHT + 2))
    y = top + LINE_HEIGHT + PICTURE_HEIGHT
    for name, text, ink in (
        ("asked", tile.question, INK),
        ("true", tile.truth, RIGHT),
        ("said", tile.answer, WRONG),
    ):
        lines = textwrap.wrap(f"{name}: {text.replace(chr(10), ' / ')}", CHARACTERS)[:LINES]
        for line in lines:
            draw.text((left, y), line, fill=ink, font=font)
            y += LINE_HEIGHT
