"""What a scene is: the picture, and the list of everything that is true of it.

Positions are fractions of the picture, height before width, so that they stay true when the
picture is resized.
"""

from dataclasses import dataclass

from PIL import Image

Box = tuple[float, float, float, float]  # top, left, bottom, right, as fractions of the picture


@dataclass(frozen=True)
class Figure:
    """One plain shape. `outline` is its polygon, a sequence of (y, x) points; `centre` lies inside
    its box.
    """

    shape: str
    colour: str
    centre: tuple[float, float]
    box: Box
    outline: tuple[tuple[float, float], ...]

    @property
    def area(self) -> float:
        """Area of the bounding box, by which one figure is called bigger than another."""
        top, left, bottom, right = self.box
        return (bottom - top) * (right - left)


@dataclass(frozen=True)
class Glyph:
    """One printed character and the box its ink and side bearings take."""

    character: str
    box: Box


@dataclass(frozen=True)
class Lettering:
    """A printed word or number, with the place of every character."""

    text: str
    kind: str  # "word" or "number"
    colour: str
    box: Box
    glyphs: tuple[Glyph, ...]


@dataclass(frozen=True)
class Scene:
    """A picture and its facts. Figures do not overlap each other or the texts."""

    split: str
    seed: int
    image: Image.Image
    background: str
    figures: tuple[Figure, ...]
    texts: tuple[Lettering, ...]

    def count(self, shape: str | None = None, colour: str | None = None) -> int:
        """Number of figures of this shape and colour; None stands for any."""
        return len(self.find(shape, colour))

    def find(self, shape: str | None = None, colour: str | None = None) -> tuple[Figure, ...]:
        """The figures of this shape and colour, in drawing order; None stands for any."""
        return tuple(
            figure
            for figure in self.figures
            if shape in (None, figure.shape) and colour in (None, figure.colour)
        )
