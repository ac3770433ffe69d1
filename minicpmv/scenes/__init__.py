"""Pictures drawn by seed together with everything that is true of them.

`render(seed)` gives a `Scene`: a PIL image, the figures and texts drawn on it, and the background.
Questions, answers and captions are derived from those facts in `questions/`, targets for single
patches in `text/labels.py`. The splits share neither seeds nor words nor, where the machine has
fonts, typefaces.
"""

from minicpmv.scenes.examples.draw import EXAMPLE_KINDS, draw_example
from minicpmv.scenes.questions.tasks import TASKS, ask, caption, questions_of
from minicpmv.scenes.render import KINDS, render
from minicpmv.scenes.scene import (
    Chart,
    Example,
    Figure,
    Glyph,
    Lettering,
    Question,
    Scene,
    Table,
    Turn,
)
from minicpmv.scenes.text.labels import patch_labels

__all__ = [
    "EXAMPLE_KINDS",
    "KINDS",
    "TASKS",
    "Chart",
    "Example",
    "Figure",
    "Glyph",
    "Lettering",
    "Question",
    "Scene",
    "Table",
    "Turn",
    "ask",
    "caption",
    "draw_example",
    "patch_labels",
    "questions_of",
    "render",
]
