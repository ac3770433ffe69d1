from hypothesis import given
from hypothesis import strategies as st

from minicpmv.processing.messages import normalised
from minicpmv.processing.quoting import (
    QUOTE_END,
    QUOTE_START,
    quoted,
    reserved_tags,
    unquoted,
)

TAGS = ["<image>", "</image>", "<unk>", "<|im_end|>", "<box>", "</box>", "!"]


def in_brackets(text: str, *, keep_markers: bool = False) -> str:
    text = quoted(text, reserved_tags(TAGS, keep_markers=keep_markers))
    return text.replace(QUOTE_START, "[").replace(QUOTE_END, "]")


def test_reserved_tags_are_put_in_quotes():
    assert in_brackets("an <image> and <|im_end|>!") == "an [<image>] and [<|im_end|>]!"
    assert in_brackets("(<image>./</image>)") == "([<image>]./[</image>])"
    assert in_brackets("(<video>./</video>)") == "([<video>]./</video>)"


def test_grounding_tags_are_free():
    assert in_brackets("<box>1 2 3 4</box>") == "<box>1 2 3 4</box>"


def test_markers_are_kept_on_request():
    text = "(<image>./</image>) <image>"
    assert in_brackets(text, keep_markers=True) == "(<image>./</image>) [<image>]"


def test_quotes_cannot_be_smuggled_in():
    assert in_brackets(f"{QUOTE_START}a{QUOTE_END}<ima{QUOTE_START}ge>") == "a[<image>]"


def test_unquoting_knows_where_each_character_stood():
    text = f"ab{QUOTE_START}<x>{QUOTE_END}c{QUOTE_START}<y>{QUOTE_END}"
    bare, positions, spans = unquoted(text)
    assert bare == "ab<x>c<y>"
    assert [bare[start:end] for start, end in spans] == ["<x>", "<y>"]
    assert len(positions) == len(bare) + 1
    assert all(text[position] == bare[index] for index, position in enumerate(positions[:-1]))


def test_text_is_quoted_wherever_a_template_reads_it():
    tags, inside = reserved_tags(TAGS, keep_markers=False), f"{QUOTE_START}<unk>{QUOTE_END}"
    message = {"role": "user", "content": ["<unk>"], "calls": [{"name": "<unk>"}]}
    (message,) = normalised([message], tags, other_keys=["calls"])
    assert message["calls"] == [{"name": inside}]
    assert message["content"] == [{"type": "text", "text": inside}]
    (message,) = normalised([{"role": "user", "content": "<unk>"}], tags)
    assert message["content"] == inside


@given(st.lists(st.sampled_from([*TAGS, "a", "<", ">", "im", "(<image>./</image>)", "\n"])))
def test_unquoting_gives_the_text_back(pieces):
    text = "".join(pieces)
    bare, positions, spans = unquoted(quoted(text, reserved_tags(TAGS, keep_markers=False)))
    assert bare == text
    assert len(positions) == len(text) + 1
    assert positions == sorted(positions)
    reserved = {tag for tag in TAGS if tag.startswith("<") and "box" not in tag}
    assert {text[start:end] for start, end in spans} <= reserved | {"<video>"}
    outside = text
    for start, end in reversed(spans):
        outside = f"{outside[:start]}\0{outside[end:]}"
    assert not any(tag in outside for tag in reserved)
