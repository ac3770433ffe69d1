"""A contact sheet of wrong answers: what was shown, asked, true and answered, worst first."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from minicpmv.evaluate.scenes.measures import Result
from minicpmv.evaluate.scenes.samples import Sample
from minicpmv.scenes import Example

SOFTWARE = "minicpmv evaluate --failures"  # by which the picture is known again
COLUMNS = 5
TILE_WIDTH, PICTURE_HEIGHT, LINE_HEIGHT, MARGIN = 280, 190, 15, 4  # pixels
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
        self, part: str, results: Sequence[Result], shown: Sequence[Sample], most: int = COLUMNS
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
            self._tiles.append(
                _Tile(
                    f"{part}, seed {item.seed}, score {score:.2f}",
                    _side_by_side(example),
                    _asked(example),
                    example.turns[-1].answer,
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
            sheet.paste(_draw(tile, height), (column * TILE_WIDTH, row * height))
        about = PngInfo()
        about.add_text("Software", SOFTWARE)
        sheet.save(path, format="PNG", pnginfo=about)
        return len(self._tiles)


def _asked(example: Example) -> str:
    """The question, after the answers that were shown before it."""
    *solved, last = example.turns
    shown = "".join(f"[{turn.answer}] " for turn in solved)
    return shown + last.question


def _side_by_side(example: Example) -> Image.Image:
    """All pictures of an example, small; more than three in two rows."""
    number = len(example.scenes)
    rows = 1 if number <= 3 else 2
    columns = math.ceil(number / rows)
    width, height = TILE_WIDTH - 2 * MARGIN, PICTURE_HEIGHT - MARGIN
    room = width // columns, height // rows
    strip = Image.new("RGB", (width, height), PAPER)
    for index, scene in enumerate(example.scenes):
        small = scene.image.convert("RGB")
        small.thumbnail((room[0] - 2, room[1] - 2))
        row, column = divmod(index, columns)
        strip.paste(small, (column * room[0], row * room[1]))
    return strip


def _draw(tile: _Tile, height: int) -> Image.Image:
    font = ImageFont.load_default(FONT_SIZE_PX)
    drawn = Image.new("RGB", (TILE_WIDTH - MARGIN, height), PAPER)
    draw = ImageDraw.Draw(drawn)
    draw.text((MARGIN, 2), tile.title, fill=INK, font=font)
    drawn.paste(tile.picture, (MARGIN, LINE_HEIGHT + 2))
    y = LINE_HEIGHT + PICTURE_HEIGHT
    for name, text, ink in (
        ("asked", tile.question, INK),
        ("true", tile.truth, RIGHT),
        ("said", tile.answer, WRONG),
    ):
        text = f"{name}: {text.replace(chr(10), ' / ')}"
        for line in textwrap.wrap(text, CHARACTERS, max_lines=LINES, placeholder=" ..."):
            draw.text((MARGIN, y), line, fill=ink, font=font)
            y += LINE_HEIGHT
    return drawn
