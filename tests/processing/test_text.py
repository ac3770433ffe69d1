"""Conversations of the text models: the recorded prompts and ids, and what a message may hold."""

import json
from typing import Any

import pytest
from PIL import Image

from minicpmv.processing.text import TextProcessor
from minicpmv.releases import TEXT_RELEASES, text_release_of

from ..helpers.golden import GOLDEN
from ..helpers.text_models import MODELS, recorded


def processor(model: str, compat: Any = None) -> TextProcessor:
    return TextProcessor.from_pretrained(
        GOLDEN / model / "ckpt", TEXT_RELEASES[MODELS[model]], compat
    )


@pytest.mark.parametrize("model", MODELS)
def test_config_tells_the_release(model: str) -> None:
    fields = json.loads((GOLDEN / model / "ckpt" / "config.json").read_text())
    assert text_release_of(fields) is TEXT_RELEASES[MODELS[model]]


@pytest.mark.parametrize(("model", "inputs", "expected"), recorded("chat_template"))
@pytest.mark.parametrize("compat", [None, "released"])
def test_recorded_prompts(model: str, inputs: Any, expected: Any, compat: Any) -> None:
    text = processor(model, compat)
    header = inputs["add_generation_prompt"]
    messages = inputs["messages"]
    assert text.apply_chat_template(messages, add_generation_prompt=header) == expected["text"]
    both = text.apply_chat_template(
        [messages, [{"role": "user", "content": "hi"}]],
        add_generation_prompt=header,
        tokenize=True,
    )
    is_text = both["attention_mask"][0].bool()
    assert both["input_ids"][0][is_text].tolist() == expected["ids_fast_tokenizer"]
    assert both["attention_mask"][1].tolist() == sorted(both["attention_mask"][1].tolist())


def test_typed_tags_are_text() -> None:
    turn = [{"role": "user", "content": "What does </s> mean, and <s>?"}]
    ids = processor("minicpm-2b").apply_chat_template(turn, tokenize=True)["input_ids"][0].tolist()
    assert ids.count(1) == 1
    assert 2 not in ids
    assert processor("minicpm-2b").tokenizer.decode(ids[1:]) == f"<用户>{turn[0]['content']}<AI>"
    old = processor("minicpm-2b", "released").apply_chat_template(turn, tokenize=True)["input_ids"]
    assert old[0].tolist().count(1) == 2
    assert 2 in old[0]


def test_answers_end_at_terminators_and_stop_texts() -> None:
    text = processor("minicpm-2b")
    ids = text.tokenizer("Hi there", add_special_tokens=False)["input_ids"]
    stop = text.tokenizer("<AI>and so on", add_special_tokens=False)["input_ids"]
    assert text.decode_answer([*ids, 2, 2, 2]) == "Hi there"
    assert text.decode_answer([*ids, *stop]) == "Hi there"
    assert text.decode_answer([*ids, *stop], strip=False) == "Hi there "
    assert processor("minicpm-2b", "released").decode_answer([*ids, *ids[-1:]]) == "Hi there"
    assert processor("minicpm-2b-128k").terminator_ids == [2, 720]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ([Image.new("RGB", (9, 9)), "What?"], {}, "'image', but MiniCPM-2B reads text only"),
        ([{"type": "video", "video": []}], {}, "'video', but MiniCPM-2B reads text only"),
        ("What?", {"max_slice_nums": 1}, "max_slice_nums has no effect: MiniCPM-2B reads text"),
    ],
)
def test_what_is_for_pictures_is_an_error(content: Any, options: Any, message: str) -> None:
    turn = [{"role": "user", "content": content}]
    with pytest.raises(ValueError, match=message):
        processor("minicpm-2b").apply_chat_template(turn, processor_kwargs=options)


def test_blocks_of_text_are_lines() -> None:
    turn = [{"role": "user", "content": ["One", {"type": "text", "text": "two"}]}]
    assert processor("minicpm-2b").apply_chat_template(turn) == "<用户>One\ntwo<AI>"


def test_a_tokenizer_without_a_template_is_named() -> None:
    tokenizer = processor("minicpm-2b").tokenizer
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"tokenizer_config\.json of .* has no chat_template"):
        TextProcessor(tokenizer, TEXT_RELEASES["2b"])
    with pytest.raises(ValueError, match="compat is 'old'"):
        processor("minicpm-2b", "old")
