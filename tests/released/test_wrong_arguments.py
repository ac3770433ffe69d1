"""The released `chat()` names an argument of a wrong type in one plain line."""

import re
from typing import Any

import pytest
import torch

from minicpmv import AutoModel, AutoModelForCausalLM, AutoTokenizer, MiniCPMVChat

from ..helpers.golden import GOLDEN
from ..helpers.pictures import picture

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def text_model() -> tuple[Any, Any]:
    folder = GOLDEN / "minicpm-2b/ckpt"
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def vision_model() -> tuple[Any, Any]:
    folder = GOLDEN / "minicpm-v-2_6/checkpoint"
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"history": 5}, "history is int; expected a list of messages"),
        ({"history": {}}, "history is dict; expected a list of messages"),
        ({"history": [{"role": "user"}]}, "Message 0 has no content"),
        ({"max_length": "4"}, "max_length is '4'; it must be a whole number"),
        ({"logits_processor": 5}, "logits_processor is 5; expected a LogitsProcessorList"),
        ({"tokenizer": None}, "tokenizer is NoneType; expected a tokenizer"),
        ({"tokenizer": "minicpm"}, "tokenizer is str; expected a tokenizer"),
    ],
)
def test_a_text_model_names_it(
    text_model: tuple[Any, Any], given: dict[str, Any], message: str
) -> None:
    model, tokenizer = text_model
    arguments = {"tokenizer": tokenizer, "query": "hi", "do_sample": False, **given}
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        model.chat(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"msgs": [MESSAGES]}, "image is Image, and msgs is a list of conversations"),
        ({"stream": "yes"}, "stream is 'yes'; it must be True or False"),
        ({"vision_hidden_states": 5}, "vision_hidden_states is int; expected a list"),
        ({"vision_hidden_states": [5]}, "vision_hidden_states is list; expected a list"),
        ({"vision_hidden_states": torch.zeros(())}, "vision_hidden_states is Tensor; expected"),
        ({"tokenizer": "minicpm"}, "tokenizer is str; expected a tokenizer"),
        ({"msgs": [{"role": "user", "content": 5}]}, "The content of the first message is int"),
    ],
)
def test_a_model_with_pictures_names_it(
    vision_model: tuple[Any, Any], given: dict[str, Any], message: str
) -> None:
    model, tokenizer = vision_model
    arguments = {"image": picture(60, 40), "msgs": MESSAGES, "tokenizer": tokenizer, **given}
    with pytest.raises(ValueError, match=re.escape(message)):
        model.chat(**arguments, sampling=False, max_new_tokens=2)


def test_a_message_without_content_is_no_empty_one(vision_model: tuple[Any, Any]) -> None:
    model, tokenizer = vision_model
    processor = model._processor_with(tokenizer, None)
    with pytest.raises(ValueError, match="Message 0 has no content"):
        processor.apply_chat_template([{"role": "user"}], tokenize=False)


@pytest.mark.parametrize("given", [None, 5])
def test_the_first_chat_class_takes_a_dict(given: Any) -> None:
    with pytest.raises(ValueError, match="expected a dict with image and question"):
        MiniCPMVChat().chat(given)


def test_the_first_chat_class_names_a_key_of_another_type() -> None:
    with pytest.raises(ValueError, match="The input has the key 2"):
        MiniCPMVChat().chat({2: 1, "image": "", "question": "[]", "z": 1})
