"""Processors that are saved, and found by transformers' Auto classes."""

import json

import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer

from minicpmv.processing import MiniCPMVProcessor, MiniCPMVTokenizerFast
from minicpmv.releases import RELEASES

from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture
from ..helpers.processors import inputs_of, user


def test_a_saved_processor_loads_the_same(version, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, MiniCPMVProcessor)
    assert again.to_dict() == processor.to_dict()
    assert again.chat_template == processor.chat_template
    assert isinstance(again.tokenizer, MiniCPMVTokenizerFast)
    conversation = user(picture(500, 900), "Look !")
    ours, theirs = inputs_of(processor, conversation), inputs_of(again, conversation)
    assert all(torch.equal(ours[name], theirs[name]) for name in processor.model_input_names)
    # One place for each setting: the released file.
    assert "image_processor" not in json.loads((tmp_path / "processor_config.json").read_text())


@pytest.mark.parametrize("version", ["2.0", "2.5", "2.6"])
def test_settings_of_the_image_processor_stay_there(new_processor, tmp_path):
    processor = new_processor(max_slice_nums=2, compat="released")
    assert not {"max_slice_nums", "compat"} & set(processor.tokenizer.init_kwargs)
    conversation = user(picture(900, 1300), "a")
    assert len(inputs_of(processor, conversation)["pixel_values"]) == 3
    processor.image_processor.max_slice_nums = 1
    assert len(inputs_of(processor, conversation)["pixel_values"]) == 1
    processor.save_pretrained(tmp_path)
    again = MiniCPMVProcessor.from_pretrained(tmp_path)
    assert (again.image_processor.max_slice_nums, again.image_processor.compat) == (1, "released")


@pytest.mark.parametrize("trust", [False, True])
def test_auto_classes_find_ours_in_released_checkpoints(version, trust):
    checkpoint = CHECKPOINTS[version]
    found = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=trust)
    assert type(found) is MiniCPMVProcessor
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=trust)
    assert type(tokenizer) is type(found.tokenizer) is MiniCPMVTokenizerFast


def test_templates_serve_the_tokenizer_too(processor):
    conversation = [{"role": "user", "content": "Hello"}]
    ours = processor.apply_chat_template(conversation, add_generation_prompt=True)
    theirs = processor.tokenizer.apply_chat_template(
        conversation,
        chat_template=processor.chat_template,
        add_generation_prompt=True,
        tokenize=False,
    )
    assert ours == theirs


def test_every_release_has_a_template():
    for release in RELEASES.values():
        assert release.chat_template.endswith(".jinja")
