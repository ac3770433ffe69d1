"""What a model is shown: built-in conversations by seed, and the user's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..scenes import render


@dataclass(frozen=True)
class Prompt:
    """One conversation and the name it has in reports."""

    name: str
    conversation: list[dict[str, Any]]


def built_in_prompts(supports_images: bool) -> list[Prompt]:
    """Small, cut into slices, extreme in shape, two pictures, and text alone."""
    text = [
        _prompt("text", "Count from one to five, then name two colours."),
        _prompt("chinese", "请用一句话介绍你自己。"),
    ]
    if not supports_images:
        return [*text, _prompt("short", "Hello")]
    small = _picture(1, 168, 200)
    return [
        _prompt("small", "What is in the picture?", small),
        _prompt("sliced", "What is written here?", _picture(2, 520, 700)),
        _prompt("extreme", "Which colours do you see?", _picture(3, 40, 500)),
        _prompt("two pictures", "Which of the two is larger?", small, _picture(4, 300, 220)),
        text[0],
    ]


def own_prompt(images: Sequence[Image.Image], prompt: str | None) -> Prompt:
    """The user's pictures and question."""
    return _prompt("yours", prompt or "What is in the picture?", *images)


def _prompt(name: str, question: str, *images: Image.Image) -> Prompt:
    return Prompt(name, [{"role": "user", "content": [*images, question]}])


def _picture(seed: int, height: int, width: int) -> Image.Image:
    """A scene of that size: large areas, edges, and printed words where there is room."""
    return render(seed, "test", size=(height, width)).image
