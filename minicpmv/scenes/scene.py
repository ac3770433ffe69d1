"""What a scene is: the picture, and the list of everything that is true of it; and what an example
is: scenes with a conversation about them.

Positions are fractions of the picture, height before width, so that they stay true when the
picture is resized.
"""

from dataclasses import dataclass

from PIL import Image

Box = tuple[float, float, float, float]  # top, left, bottom, right, as fractions of the picture


@dataclass(frozen=True)
class Figure:
    """One plain shape, or the icon of an everyday thing: `shape` is its name. `outline` is its
    polygon, a sequence of (y, x) points; `centre` lies inside its box.
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
    """One printed line, with the place of every character that is not a space, in reading order."""

    text: str
    kind: str  # "word", "number", "line", "cell", "title" or "label"
    colour: str  # "" where the colour has no name
    box: Box
    glyphs: tuple[Glyph, ...]


@dataclass(frozen=True)
class Table:
    """A printed table; every row has as many cells as `header`."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A bar or line chart: one value per label; what the axis says it counts is `unit`."""

    kind: str  # "bar" or "line"
    title: str
    unit: str
    labels: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """A picture and its facts. Figures do not overlap each other or the texts.

    `texts` are in reading order. `fields` are the (name, value) pairs of a form or receipt.
    """

    split: str
    seed: int
    image: Image.Image
    background: str
    figures: tuple[Figure, ...] = ()
    texts: tuple[Lettering, ...] = ()
    kind: str = ""
    table: Table | None = None
    chart: Chart | None = None
    fields: tuple[tuple[str, str], ...] = ()

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


@dataclass(frozen=True)
class Question:
    """One question about a scene, its answer, and the task it belongs to."""

    task: str
    text: str
    answer: str
    accepted: tuple[str, ...] = ()  # answers that are as good
    spelt: bool = False  # the answer is read off the picture: learned letter by letter


@dataclass(frozen=True)
class Turn:
    """A question and its answer; `shown` numbers the scenes that come right before the question."""

    task: str
    question: str
    answer: str
    shown: tuple[int, ...] = ()
    accepted: tuple[str, ...] = ()  # answers that are as good
    spelt: bool = False  # the answer is read off the picture: learned letter by letter


@dataclass(frozen=True)
class Example:
    """Scenes and one conversation about them. Of a video the scenes are the frames, in order."""

    scenes: tuple[Scene, ...]
    turns: tuple[Turn, ...]
    is_video: bool = False
