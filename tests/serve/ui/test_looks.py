"""The conversation as HTML: everything said in it, and nothing that a browser would obey."""

import math
from html.parser import HTMLParser

import pytest

from minicpmv.serve.ui import looks
from minicpmv.serve.ui.client import Token
from minicpmv.serve.ui.conversation import Cost, Turn
from minicpmv.serve.ui.examples import make_examples
from minicpmv.serve.ui.markup import (
    as_percent,
    coloured,
    level,
    markdown,
    visible,
    without_pictures,
)
from minicpmv.serve.ui.uploads import Attachment

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "[click](javascript:alert(1))",
    "![pixel](https://tracker.example/x.png)",
    "<a href='https://tracker.example'>x</a>",
    "`</code><iframe>`",
    "```\n</pre><script>1</script>\n```",
]


class Seen(HTMLParser):
    """The tags, attributes and text of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def check_harmless(html):
    seen = Seen(html)
    assert not {"script", "iframe", "object", "embed", "style"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    addresses = [value for name, value in seen.attributes if name in ("src", "href")]
    assert not [value for value in addresses if value.startswith(("javascript", "data"))]
    sources = [value for name, value in seen.attributes if name == "src"]
    assert all(value.startswith("gradio_api/file=") for value in sources)
    return seen


@pytest.mark.parametrize("text", HOSTILE)
def test_no_question_answer_or_error_breaks_out(text):
    file = Attachment(f"/uploads/{text}", text, "picture")
    turns = [
        Turn(text, (file,), text, (Token(text, -1.0, ((text, -2.0),)),), ending="stop"),
        Turn(text, answer=text, ending="error", problem=text),
    ]
    for colours in (True, False):
        seen = check_harmless(looks.conversation(turns, "en", colours=colours))
        assert text in seen.text  # the question, as it was typed


def test_markdown_is_read_and_formulas_stay():
    assert "<strong>two</strong>" in markdown("I see **two**")
    assert "<table>" in markdown("|a|b|\n|-|-|\n|1|2|")
    assert r"\( x_1 \)" in markdown(r"\( x_1 \)")
    link = markdown("[page](https://example.org)")
    assert 'rel="noopener noreferrer"' in link
    assert 'target="_blank"' in link
    assert "<img" not in markdown("![a](https://example.org/a.png)")
    assert without_pictures("a ![b](c) d") == "a [b](c) d"


def test_coloured_tokens_are_the_answer():
    tokens = [Token("**a", math.log(0.99)), Token("<b>\n", math.log(0.3), (("<i>", -1.5),))]
    seen = Seen(coloured(tokens, "tokens", ("likely", "unlikely")))
    assert seen.tags.count("span") >= 4
    assert "b" not in [tag for tag in seen.tags if tag not in ("span", "div", "b", "i")]
    assert "**a" in seen.text
    assert "30.0 %" in seen.text
    classes = [value for name, value in seen.attributes if name == "class"]
    levels = [value for value in classes if "level-" in value]
    assert levels[:2] == ["token level-0", "token level-3"]
    assert levels[2:] == [f"level-{place}" for place in range(5)]  # the scale below
    assert seen.text.endswith("likely  unlikely")


def test_levels_and_percents():
    shares = [1, 0.95, 0.9, 0.6, 0.3, 0.1, 0.00001]
    assert [level(math.log(share)) for share in shares] == [0, 0, 1, 2, 3, 4, 4]
    assert [as_percent(math.log(share)) for share in (1, 0.973, 0.0001)] == [
        "100.0 %",
        "97.3 %",
        "< 0.1 %",
    ]
    assert level(0.01) == 0  # rounding of a sure token
    assert [visible(text) for text in (" a", "\n", "")] == ["␣a", "⏎", "∅"]


def test_tools_come_when_the_answer_has_ended():
    growing = looks.conversation([Turn("What?", answer="So")], "en", colours=False)
    ended = looks.conversation([Turn("What?", answer="So", ending="stop")], "en", colours=False)
    assert "data-do" not in growing
    assert 'aria-busy="true"' in growing
    assert [f'data-do="{name}"' in ended for name in ("edit", "copy", "retry")] == [True] * 3
    assert 'data-text="So"' in ended


def test_what_an_answer_cost():
    cost = Cost(prompt=540, answer=13, cached=0, first_s=0.38, seconds=0.5)
    assert looks.cost_notes(cost, "en") == [
        "540 + 13 tokens",
        "first after 0.38 s",
        "0.50 s in all",
        "100 tokens/s",
    ]
    assert looks.cost_notes(Cost(540, 1, 500, 0.4, 0.4), "zh")[0].startswith("540（500")
    turn = Turn("What?", answer="So", cost=cost, ending="length")
    assert "cut at the longest answer" in looks.side(turn, "Answer A", "en")


def test_problems_name_what_the_page_can_change():
    problem = (
        "The prompt is too long; max_tokens is 512. Give fewer frames "
        "(mm_processor_kwargs.num_frames), lower mm_processor_kwargs.max_slice_nums or max_tokens."
    )
    turn = Turn("What?", ending="error", problem=problem)
    said = looks.said(turn, "en", colours=False)
    assert "max_tokens" not in said
    assert "mm_processor_kwargs" not in said
    assert "“Longest answer, tokens” is 512" in said
    assert "lower “Slices per picture” or “Longest answer, tokens”." in said
    assert "“每段视频帧数”" in looks.said(turn, "zh", colours=False)
    other = Turn("What?", ending="error", problem="seeds, top_pick and max_tokens_x stay")
    assert other.problem in looks.said(other, "en", colours=False)


def test_examples_are_there_before_the_first_question(uploads):
    examples = make_examples(uploads)
    html = looks.welcome(examples, "zh", "note")
    check_harmless(html)
    assert html.count("data-example") == len(examples) == 4
    assert examples[2].text("zh") in html
    assert all(uploads.check(file.path) for example in examples for file in example.files)
