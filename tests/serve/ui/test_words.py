"""Every text is there in both languages, and every text is used."""

import pickle
import re
import string
from pathlib import Path

import pytest

from minicpmv.serve import ui
from minicpmv.serve.ui import words
from minicpmv.serve.ui.words import PageError, language_of, say

SOURCES = [
    file.read_text(encoding="utf-8")
    for file in Path(ui.__file__).parent.rglob("*")
    if file.suffix in (".py", ".js", ".html") and file.name != "words.py"
]


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same():
    for key, (english, chinese) in words._WORDS.items():
        assert fields(english) == fields(chinese), key
        assert english
        assert chinese
        assert not re.search(r"[\u4e00-\u9fff]", english), key


def test_no_text_is_left_over():
    families = ("draw_", "live_")  # put together from a word
    unused = [
        key
        for key in words._WORDS
        if not key.startswith(families) and not any(f'"{key}"' in text for text in SOURCES)
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-CN,zh;q=0.9", "zh"), ("ZH", "zh"), ("en-GB", "en"), ("de,zh", "en"), (None, "en")],
)
def test_the_language_of_a_browser(header, language):
    assert language_of(header) == language


def test_an_error_speaks_both_languages():
    error = PageError("pages_missing", pages="9", count=3)
    assert str(error) == "Pages 9 were asked for; the document has 1 to 3."
    assert "1 至 3 页" in error.text("zh")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.key, copy.values) == (error.key, error.values)
    assert say("chat", "fr") == "Chat"
