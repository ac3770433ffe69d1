"""Pictures to begin with, drawn by `minicpmv.scenes`: the bundled model knows such pictures."""

import io
from dataclasses import dataclass

from PIL import Image

from ...scenes import draw_example, render
from .uploads import Attachment, Uploads


@dataclass(frozen=True)
class Example:
    """A question in English and Chinese, with its pictures."""

    english: str
    chinese: str
    files: tuple[Attachment, ...]

    def text(self, language: str) -> str:
        return self.chinese if language == "zh" else self.english


def make_examples(uploads: Uploads) -> list[Example]:
    """Four questions about pictures drawn now, the same ones at every start."""
    figures = _keep(uploads, render(0, "test", kind="many", size=(336, 448)).image, "figures.png")
    things = _keep(uploads, render(2, "test", kind="icons", size=(336, 448)).image, "things.png")
    word = _keep(uploads, render(4, "test", kind="word", size=(224, 336)).image, "word.png")
    pair = tuple(
        _keep(uploads, scene.image, f"picture-{number}.png")
        for number, scene in enumerate(draw_example(0, "test", "which").scenes, start=1)
    )
    return [
        Example("Describe the picture.", "描述这张图片。", (things,)),
        Example("How many figures are there?", "图中有多少个图形？", (figures,)),
        Example("What is written here?", "这里写了什么？", (word,)),
        Example("Which picture has more objects?", "哪张图片里的物体更多？", pair),
    ]


def _keep(uploads: Uploads, picture: Image.Image, name: str) -> Attachment:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return uploads.keep(data.getvalue(), name, is_lasting=True)
