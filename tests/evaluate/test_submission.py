"""Answers that are sent in where the references are hidden."""

import json
import re
import zipfile
from xml.etree import ElementTree

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.page import load_page
from minicpmv.evaluate.report.submission import write_submission


def test_documents_are_sent_in_as_a_list(tmp_path):
    items = [Item("7", "What?"), Item("a8", "Who?"), Item("9", "Where?")]
    path = write_submission(load_page("docvqa-test"), items, {"7": "1 %", "a8": "\u4f60"}, tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"questionId": 7, "answer": "1 %"},
        {"questionId": "a8", "answer": "\u4f60"},
        {"questionId": 9, "answer": ""},
    ]


def test_choices_are_sent_in_as_the_table_with_predictions(tmp_path):
    options = {"A": "a < b", "B": "\u732b"}
    items = [
        Item("1", "Which?", (b"",), (), options, {"category": "x & y", "split": "test", "n": None}),
        Item("1000001", "Which one?", (b"",), (), options, {"category": "z", "hint": "h"}),
    ]
    page = load_page("mmbench-en-test")
    path = write_submission(page, items, {"1": "B\x00 \n", "1000001": "A"}, tmp_path)
    with zipfile.ZipFile(path) as book:
        assert book.testzip() is None
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
        for name in book.namelist():
            ElementTree.fromstring(book.read(name))
    assert [["".join(cell.itertext()) for cell in row] for row in sheet[0]] == [
        ["index", "question", "A", "B", "category", "split", "hint", "prediction"],
        ["1", "Which?", "a < b", "\u732b", "x & y", "test", "", "B \n"],
        ["1000001", "Which one?", "a < b", "\u732b", "z", "", "h", "A"],
    ]
    kinds = [re.sub(r"\{.*\}", "", cell[0].tag) for cell in sheet[0][1]]
    assert kinds == ["v"] + ["is"] * 7
