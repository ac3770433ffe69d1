"""What programs written for the released processors, and transformers' server, look for."""

import pickle

import pytest
import torch
from transformers import ProcessorMixin

from minicpmv.processing import MiniCPMVProcessor
from minicpmv.processing.placeholders import IMAGE_MARKER

from ..helpers.pictures import picture


def test_the_released_keys_of_the_output_are_found(processor):
    images = [[picture(900, 300), picture(40, 60)], [], [picture(30, 30)]]
    prompts = [f"{IMAGE_MARKER} {IMAGE_MARKER} a", "b", IMAGE_MARKER]
    inputs = processor(prompts, images)
    released = processor(prompts, images, return_released_layout=True)
    for name in ("tgt_sizes", "image_bound"):
        assert len(inputs[name]) == 3
        assert all(map(torch.equal, inputs[name], released[name]))
    assert inputs["image_sizes"] == released["image_sizes"]
    assert inputs["image_sizes"][0] == [(300, 900), (60, 40)]  # (width, height)
    assert inputs["tgt_sizes"][1].shape == (0, 2)
    assert not {"tgt_sizes", "image_bound", "image_sizes"} & set(inputs)
    assert all(map(torch.equal, inputs.to("cpu")["tgt_sizes"], released["tgt_sizes"]))


def test_the_released_keys_survive_another_process(processor_2_6):
    inputs = processor_2_6(IMAGE_MARKER, picture(90, 30))
    copy = pickle.loads(pickle.dumps(inputs))
    assert torch.equal(copy["tgt_sizes"][0], inputs["tgt_sizes"][0])
    with pytest.raises(KeyError):
        copy["image_sizes"]
    with pytest.raises(KeyError):
        inputs["something"]


def test_text_alone_has_no_slices(processor_2_6):
    inputs = processor_2_6("Hello", return_tensors="np")
    assert inputs["tgt_sizes"][0].shape == (0, 2)
    assert inputs["image_bound"][0].shape == (0, 2)


def test_the_processor_has_the_vocabulary_of_its_tokenizer(processor):
    assert processor.get_vocab() == processor.tokenizer.get_vocab()


def test_tools_that_the_template_does_not_write_are_an_error(processor):
    turn = [{"role": "user", "content": "What time is it?"}]
    with pytest.raises(ValueError, match="tools has no effect: the chat template does not write"):
        processor.apply_chat_template(turn, tools=[{"type": "function"}])
    template = "{{ tools[0].type }}{{ messages[0].name }}"
    turn[0]["name"] = "Kim"
    text = processor.apply_chat_template(turn, template, tools=[{"type": "function"}])
    assert text == "functionKim"


def test_every_hook_of_the_processor_overrides_one_of_its_first_base():
    # transformers' suite of processors compares a class with `__mro__[1]` to find its hooks.
    base = MiniCPMVProcessor.__mro__[1]
    assert base.replace_image_token is not MiniCPMVProcessor.replace_image_token
    assert issubclass(base, ProcessorMixin)
