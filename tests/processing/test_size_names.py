"""Sizes of slices under the names that trainers know: `size_names`."""

import pytest
import torch
from PIL import Image

import minicpmv
from minicpmv.processing import MiniCPMVProcessor

from ..helpers.golden import CHECKPOINTS
from ..helpers.tiny import tiny_batch, tiny_model

ONE = "(<image>./</image>)\nWhat is this?"
SHAPES = {"spatial_shapes", "pixel_attention_mask"}


def noise(width, height):
    return Image.effect_noise((width, height), 80).convert("RGB")


PICTURES = [[noise(60, 20)], [noise(33, 90), noise(20, 20)]]


@pytest.fixture(params=list(CHECKPOINTS))
def processors(request):
    checkpoint = CHECKPOINTS[request.param]
    named = minicpmv.AutoProcessor.from_pretrained(checkpoint, size_names="spatial_shapes")
    return minicpmv.AutoProcessor.from_pretrained(checkpoint), named


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_sizes_are_named_as_trainers_know_them(processors, return_tensors):
    plain, named = processors
    call = {"text": [ONE, ONE + "(<image>./</image>)"], "images": PICTURES}
    expected, found = (p(**call, return_tensors=return_tensors) for p in (plain, named))
    assert set(found) == set(expected) - {"target_sizes"} | SHAPES
    assert set(found) <= set(named.model_input_names)
    assert (found["spatial_shapes"] == expected["target_sizes"]).all()
    assert (found["pixel_values"] == expected["pixel_values"]).all()
    counts = expected["target_sizes"][:, 0] * expected["target_sizes"][:, 1]
    assert (found["pixel_attention_mask"].sum(1) == counts).all()
    width = expected["pixel_values"].shape[3] // expected["pixel_values"].shape[2]
    assert found["pixel_attention_mask"].shape == (len(counts), width)
    for name in ("target_sizes", "tgt_sizes"):
        assert (found[name][0] == expected[name][0]).all()


def test_pictures_alone_and_text_alone(processors):
    _, named = processors
    assert set(named(images=PICTURES[1])) == {"pixel_values"} | SHAPES
    assert not SHAPES & set(named("Hello"))
    unpadded = named(ONE, PICTURES[0], do_pad=False)
    assert "spatial_shapes" in unpadded
    assert "pixel_attention_mask" not in unpadded


def test_slices_are_counted_from_rows_and_columns(processors):
    plain, _ = processors
    image_processor = plain.image_processor
    pictures = [[noise(1200, 400), noise(20, 20)], [noise(700, 900)], [noise(448, 448)]]
    found = image_processor(images=pictures, return_tensors="pt", return_row_col_info=True)
    tiles = found["image_rows"] * found["image_cols"]
    assert image_processor.use_thumbnail
    assert (tiles + (tiles > 1).long()).tolist() == list(found["num_slices"])
    assert "image_rows" not in image_processor(images=pictures[0])


def test_the_name_is_no_setting_of_the_checkpoint(processors, tmp_path):
    plain, named = processors
    for folder, processor in (("plain", plain), ("named", named)):
        processor.save_pretrained(tmp_path / folder)
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "named" / file.name).read_bytes()
    assert MiniCPMVProcessor.from_pretrained(tmp_path / "named").size_names == "target_sizes"


def test_an_unknown_name_is_refused(processors):
    plain, _ = processors
    with pytest.raises(ValueError, match="size_names is 'sizes'; it is 'target_sizes' or"):
        plain.size_names = "sizes"


def test_the_model_takes_the_names_of_trainers(version):
    model, inputs = tiny_model(version), tiny_batch([[(3, 4), (2, 5)]])
    sizes = inputs.pop("target_sizes")
    mask = torch.ones(2, 12, dtype=torch.long)
    shapes = {"spatial_shapes": sizes, "pixel_attention_mask": mask}
    with torch.no_grad():
        expected = model(**inputs, target_sizes=sizes).logits
        assert torch.equal(model(**inputs, **shapes).logits, expected)
    options = {"max_new_tokens": 2, "do_sample": False}
    for num_beams in (1, 2):
        wanted = model.generate(**inputs, target_sizes=sizes, num_beams=num_beams, **options)
        found = model.generate(**inputs, **shapes, num_beams=num_beams, **options)
        assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="either tgt_sizes or spatial_shapes"):
        model(**inputs, **shapes, tgt_sizes=sizes)


def test_a_chat_answers_with_such_a_processor():
    chat = minicpmv.load(str(CHECKPOINTS["2.6"]), dtype="float32")
    options = {"sampling": False, "max_new_tokens": 4}
    expected = chat.ask("What is this?", PICTURES[0], **options)
    named = MiniCPMVProcessor.from_pretrained(CHECKPOINTS["2.6"], size_names="spatial_shapes")
    assert minicpmv.Chat(chat.model, named).ask("What is this?", PICTURES[0], **options) == expected
