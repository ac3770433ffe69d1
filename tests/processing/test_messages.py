import base64

import numpy as np
import pytest

from minicpmv.processing.messages import (
    QUOTE_END,
    QUOTE_START,
    normalised,
    reserved_tags,
    unquoted,
)

from ..conftest import picture

TAGS = ["<image>", "</image>", "<unk>", "<|im_end|>", "<box>", "</box>", "!"]


def content_of(content, **settings):
    (message,) = normalised([{"role": "user", "content": content}], **settings)
    return message["content"]


def quoted(text: str, **settings) -> str:
    settings = {"keep_markers": False} | settings
    text = content_of(text, quote=reserved_tags(TAGS, **settings))
    return text.replace(QUOTE_START, "[").replace(QUOTE_END, "]")


def test_text_stays_text():
    assert content_of("  Hello ") == "  Hello "


def test_a_list_of_anything_becomes_blocks():
    image = picture(4, 4)
    array = np.zeros((4, 4, 3), np.uint8)
    url = "https://example.org/a.png"
    given = [
        image,
        "What?",
        array,
        {"type": "text", "text": "b"},
        {"type": "image", "path": "a.png"},
        {"type": "image", "url": url, "path": None},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "image", "base64": base64.b64encode(b"123").decode()},
        {"type": "image"},
        {"type": "video", "frames": [image]},
    ]
    assert content_of(given) == [
        {"type": "image", "image": image},
        {"type": "text", "text": "What?"},
        {"type": "image", "image": array},
        {"type": "text", "text": "b"},
        {"type": "image", "image": "a.png"},
        {"type": "image", "image": url},
        {"type": "image", "image": url},
        {"type": "image", "image": url},
        {"type": "image", "image": b"123"},
        {"type": "image"},
        {"type": "video", "video": [image]},
    ]


def test_the_messages_given_are_not_changed():
    messages = [{"role": "user", "content": ["<image>", {"type": "text", "text": "<image>"}]}]
    normalised(messages, reserved_tags(TAGS, keep_markers=False))
    assert messages == [
        {"role": "user", "content": ["<image>", {"type": "text", "text": "<image>"}]}
    ]


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ([], ValueError, "at least one message"),
        ("Hello", ValueError, "is a list"),
        (["Hello"], TypeError, "Message 0 is str"),
        ([{"role": "bot", "content": "a"}], ValueError, "the role 'bot'"),
        ([{"content": "a"}], ValueError, "the role None"),
        ([{"role": "user", "content": [{"type": "sound"}]}], ValueError, "of type 'sound'"),
        ([{"role": "user", "content": [{"text": "a"}]}], ValueError, "of type None"),
        ([{"role": "user", "content": [{"type": "text"}]}], ValueError, "without text"),
        ([{"role": "user", "content": [3]}], TypeError, "holds int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], ValueError, "without a url"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "a", "path": "b"}]}],
            ValueError,
            "url and path; give one",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "base64": "@"}]}],
            ValueError,
            "damaged base64",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "path": "a", "video": "b"}]}],
            ValueError,
            "of type video with video and path; give one",
        ),
        ([{"role": "user", "content": [{"type": "video_url"}]}], ValueError, "video_url without a"),
    ],
)
def test_other_forms_are_named(messages, error, message):
    with pytest.raises(error, match=message):
        normalised(messages)


def test_reserved_tags_are_put_in_quotes():
    assert quoted("an <image> and <|im_end|>!") == "an [<image>] and [<|im_end|>]!"
    assert quoted("(<image>./</image>)") == "([<image>]./[</image>])"
    assert quoted("(<video>./</video>)") == "([<video>]./</video>)"


def test_grounding_tags_are_free():
    assert quoted("<box>1 2 3 4</box>") == "<box>1 2 3 4</box>"


def test_markers_are_kept_on_request():
    text = "(<image>./</image>) <image>"
    assert quoted(text, keep_markers=True) == "(<image>./</image>) [<image>]"


def test_quotes_cannot_be_smuggled_in():
    assert quoted(f"{QUOTE_START}a{QUOTE_END}<ima{QUOTE_START}ge>") == "a[<image>]"


def test_unquoting_knows_where_each_character_stood():
    text = f"ab{QUOTE_START}<x>{QUOTE_END}c{QUOTE_START}<y>{QUOTE_END}"
    bare, positions, spans = unquoted(text)
    assert bare == "ab<x>c<y>"
    assert [bare[start:end] for start, end in spans] == ["<x>", "<y>"]
    assert len(positions) == len(bare) + 1
    assert all(text[position] == bare[index] for index, position in enumerate(positions[:-1]))
