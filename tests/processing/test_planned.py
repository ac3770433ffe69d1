"""Inputs from the sizes of pictures are those of `apply_chat_template`, in every release."""

from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv.processing.planned import planned_inputs

from ..helpers.conversations import MODELS, processor_of, reads_pictures
from ..helpers.pictures import picture
from ..helpers.processors import golden_processor, inputs_of

SEEING = [model for model in MODELS if reads_pictures(model)] + ["nano"]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(height: int, width: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "image", "image": picture(height, width, seed), **more}


def asked(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def turned() -> Image.Image:
    """A wide picture that is to be shown upright, with colours of a palette."""
    found = picture(100, 900, 1).convert("P")
    found.getexif()[0x0112] = 6
    return found


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "text": [{"role": "user", "content": "Hello"}],
    "one": asked(image(300, 200), text("What is it?")),
    "two": asked(image(900, 1400), text("and"), image(40, 900, 2), text("differ how?")),
    "turned": asked({"type": "image", "image": turned()}, text("What?")),
    "quoted": asked(image(50, 60), text("What is <image> or (<image>./</image>) or <|im_end|>?")),
    "dialogue": [
        {"role": "system", "content": "Be brief."},
        *asked(image(50, 60), text("What is it?")),
        {"role": "assistant", "content": "A picture."},
        *asked(text("And this?"), image(70, 50, 3)),
    ],
    "within a line": asked(
        text("Look at "),
        image(50, 60, inline=True),
        {"type": "text", "text": " and tell me.", "inline": True},
    ),
    "own limits": asked(image(900, 1400, max_slice_nums=1), image(900, 1400, 1), text("Hm?")),
    "video": asked(
        {"type": "video", "video": [picture(300, 900, seed) for seed in range(3)]},
        image(30, 40),
        text("What moves?"),
    ),
}
SETTINGS: list[dict[str, Any]] = [{}, {"max_slice_nums": 4}, {"use_image_id": False}]


def found_or_error(call: Any) -> Any:
    try:
        return call()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("model", SEEING)
def test_inputs_are_those_of_the_chat_template(
    model: str, name: str, settings: dict[str, Any]
) -> None:
    processor = processor_of(model)
    messages = processor.question(CONVERSATIONS[name])
    found = found_or_error(lambda: planned_inputs(processor, messages, settings))
    expected = found_or_error(
        lambda: inputs_of(processor, messages, return_pixel_values=False, **settings)
    )
    assert found is not None
    if isinstance(expected, str):
        assert found == expected
        return
    assert set(found) == set(expected.keys())
    for key, value in found.items():
        assert value.dtype == expected[key].dtype, key
        assert torch.equal(value, expected[key]), key


def test_the_rest_is_left_to_the_chat_template() -> None:
    processor = processor_of("2.6")
    messages = CONVERSATIONS["one"]
    assert planned_inputs(processor, messages, {}) is not None
    assert planned_inputs(golden_processor("2.6", "released"), messages, {}) is None
    assert planned_inputs(processor, messages, {"fps": 2.0}) is None
    assert planned_inputs(processor, asked({"type": "image", "image": "a.png"}), {}) is None
    assert planned_inputs(object(), messages, {}) is None


@pytest.mark.parametrize("template", ["no picture", "((<image>./</image>))((<image>./</image>))"])
def test_a_template_that_does_not_write_each_picture_once_is(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = processor_of("2.6")
    monkeypatch.setattr(processor, "chat_template", template)
    assert planned_inputs(processor, CONVERSATIONS["one"], {}) is None


def test_a_tokenizer_that_cuts_is(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = processor_of("2.6")
    monkeypatch.setitem(processor.tokenizer.init_kwargs, "truncation", True)
    assert planned_inputs(processor, CONVERSATIONS["one"], {}) is None
