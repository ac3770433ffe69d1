"""TSV files as VLMEvalKit publishes them, and every way in which one can be broken."""

import base64
import csv
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minicpmv.evaluate.page import Page, Source, load_page
from minicpmv.evaluate.sources import read_items

COLUMNS = ("index", "image", "question", "answer")
FREE = Page(name="free", title="t", metric="exact-match", sources=(Source(kind="tsv"),))


def picture(color: str = "red", size: tuple[int, int] = (4, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format="PNG")
    return file.getvalue()


def encoded(color: str = "red") -> str:
    return base64.b64encode(picture(color)).decode()


def write(path: Path, rows: list[tuple[Any, ...]], columns=COLUMNS, **options: Any) -> Path:
    encoding = options.pop("encoding", "utf-8")
    options = {"lineterminator": "\n", **options}
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter="\t", **options).writerows([columns, *rows])
    return path


def items(path: Path, page: Page = FREE) -> list[Any]:
    return list(read_items(page, path))


def test_a_row_becomes_an_item(tmp_path):
    columns = ("index", "image", "question", "hint", "A", "B", "C", "answer", "l2-category")
    row = (7, encoded(), "What is it?", "Look.", "cat", "None", "", "B", "animals")
    path = write(tmp_path / "own.tsv", [row], columns)
    (item,) = items(path, load_page("mmbench-en-v11-dev"))
    assert (item.id, item.question, item.answers) == ("7", "What is it?", ("B",))
    assert item.options == {"A": "cat", "B": "None"}
    assert item.fields == {"index": "7", "hint": "Look.", "l2-category": "animals"}
    assert item.pictures == (picture(),)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_chinese_with_quotes_tabs_and_line_ends(tmp_path, ending, encoding):
    question = '图中"红色"的\t是什么?\n请回答。'
    path = write(
        tmp_path / "own.tsv",
        [("1", encoded(), question, "苹果")],
        lineterminator=ending,
        encoding=encoding,
    )
    (item,) = items(path)
    assert (item.question, item.answers) == (question, ("苹果",))


def test_a_quote_within_a_cell_is_a_character(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text(
        f'index\timage\tquestion\tanswer\n1\t{encoded()}\ta 15" screen\t5"\n', encoding="utf-8"
    )
    (item,) = items(path)
    assert (item.question, item.answers) == ('a 15" screen', ('5"',))


def test_a_short_cell_names_the_row_that_has_the_picture(tmp_path):
    rows = [
        ("a", "c", "later?", "x"),
        ("b", encoded("blue"), "own?", "x"),
        ("c", "b", "by way of another?", "x"),
        ("1000000", "b", "earlier?", "x"),
    ]
    found = items(write(tmp_path / "own.tsv", rows))
    assert [item.pictures for item in found] == [(picture("blue"),)] * 4


@pytest.mark.parametrize("writing", [repr, lambda each: str(each).replace("'", '"')])
def test_a_list_holds_several_pictures(tmp_path, writing):
    rows = [
        ("1", writing([encoded("red"), encoded("blue")]), "q", "x", "['a.png', 'b.png']"),
        ("2", "1", "q", "x", ""),
        ("3", writing(["1"]), "q", "x", ""),
    ]
    found = items(write(tmp_path / "own.tsv", rows, (*COLUMNS, "image_path")))
    assert [item.pictures for item in found] == [(picture("red"), picture("blue"))] * 3


def test_a_picture_shorter_than_a_reference_may_be(tmp_path):
    pixel = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    (item,) = items(write(tmp_path / "own.tsv", [("1", pixel, "q", "x")]))
    assert item.pictures == (base64.b64decode(pixel),)


def test_a_cell_that_names_a_file(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    (item,) = items(write(tmp_path / "own.tsv", [("1", "a.png", "q", "x")]))
    assert item.pictures == (tmp_path / "a.png",)


def test_paths_alone_name_files_beside_the_table(tmp_path):
    (tmp_path / "images" / "own").mkdir(parents=True)
    for place in ("a.png", "images/own/b.png"):
        (tmp_path / place).write_bytes(picture())
    rows = [("1", "a.png", "q", "x"), ("2", "['a.png', 'b.png']", "q", "x")]
    path = write(tmp_path / "own.tsv", rows, ("index", "image_path", "question", "answer"))
    first, second = items(path)
    assert first.pictures == (tmp_path / "a.png",)
    assert second.pictures == (tmp_path / "a.png", tmp_path / "images/own/b.png")


def test_references_of_a_list(tmp_path):
    path = write(tmp_path / "own.tsv", [("1", encoded(), "q", "['one', \"1\"]")])
    (item,) = items(path, load_page("ocrbench"))
    assert item.answers == ("one", "1")
    (item,) = items(path)
    assert item.answers == ("['one', \"1\"]",)
    columns = ("index", "image", "question", "answers")
    path = write(tmp_path / "own.tsv", [("1", encoded(), "q", '["one", "1"]')], columns)
    (item,) = items(path)
    assert item.answers == ("one", "1")


def test_a_cell_larger_than_csv_allows(tmp_path):
    noise = Image.effect_noise((500, 500), 90)
    file = io.BytesIO()
    noise.save(file, format="PNG")
    assert len(file.getvalue()) > 131072
    cell = base64.b64encode(file.getvalue()).decode()
    (item,) = items(write(tmp_path / "own.tsv", [("1", cell, "q", "x")]))
    assert item.pictures == (file.getvalue(),)


def test_memory_does_not_grow_with_the_file(tmp_path):
    image = Image.effect_noise((150, 150), 90)
    file = io.BytesIO()
    image.save(file, format="PNG")
    cell = base64.b64encode(file.getvalue()).decode()
    rows = [(str(n), cell if n % 2 else str(n - 1) if n else cell, "q", "x") for n in range(400)]
    path = write(tmp_path / "own.tsv", rows)
    size = path.stat().st_size
    sum(1 for _ in read_items(FREE, path, limit=1))  # imports
    tracemalloc.start()
    count = sum(len(item.pictures) for item in read_items(FREE, path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < size / 5


TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\x00", exclude_categories=("Cs",)),
    min_size=1,
    max_size=20,
)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_what_was_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "written.tsv"
    write(path, [(n, encoded(), question, answer) for n, (question, answer) in enumerate(rows)])
    found = [(item.question, item.answers) for item in items(path)]
    assert found == [(question, (answer,)) for question, answer in rows]


BROKEN = {
    "no picture": (
        [("1", "", "q", "x")],
        "row 1 .index 1.: the column .* is empty",
    ),
    "no base64": ([("1", "?" * 100, "q", "x")], "row 1 .index 1., column 'image': .* no base64"),
    "cut base64": (
        [("1", encoded()[:-3], "q", "x")],
        r"row 1 .index 1., column 'image': .* is no base64",
    ),
    "no picture in it": (
        [("1", base64.b64encode(b"text" * 30).decode(), "q", "x")],
        "row 1 .index 1., column 'image': 120 bytes that begin with b'texttext' are no picture",
    ),
    "reference to nothing": (
        [("1", encoded(), "q", "x"), ("2", "9", "q", "x")],
        "row 2 .index 2., column 'image': '9' is neither base64 of a picture nor the index",
    ),
    "reference to itself": ([("1", "1", "q", "x")], "row 1 .index 1., .* circle, 1 -> 1"),
    "a circle": (
        [("1", "2", "q", "x"), ("2", "3", "q", "x"), ("3", "1", "q", "x")],
        "row 3 .index 3., .* circle, 1 -> 2 -> 3 -> 1",
    ),
    "reference to an empty row": (
        [("1", "2", "q", "x"), ("2", "", "q", "x")],
        "row 1 .index 1., .* refers to index 2, and the picture of that row is empty",
    ),
    "an empty list": (
        [("1", "[]", "q", "x")],
        "index 1., column 'image': the list is empty",
    ),
    "no list": (
        [("1", "[" + encoded() + "]", "q", "x")],
        r"row 1 .index 1., column 'image' is .*; expected a list",
    ),
    "one id twice": (
        [("1", encoded(), "q", "x"), ("1", encoded(), "r", "x")],
        "row 2 and own.tsv, row 1 have the same id '1'",
    ),
    "no question": ([("1", encoded(), "", "x")], "row 1 has no value in the column 'question'"),
    "no answer": ([("1", encoded(), "q", "")], "row 1 has no value in the column 'answer'"),
    "too many cells": (
        [("1", encoded(), "q", "x", "more")],
        "row 1 has 5 cells; the first line names 4 columns",
    ),
    "no rows": ([], "has no rows"),
}


@pytest.mark.parametrize(("rows", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_named(tmp_path, rows, message):
    path = write(tmp_path / "own.tsv", rows)
    with pytest.raises(ValueError, match=message) as caught:
        items(path)
    assert "own.tsv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", COLUMNS)
def test_a_missing_column_is_named(tmp_path, missing):
    columns = tuple(name for name in COLUMNS if name != missing)
    path = write(tmp_path / "own.tsv", [("1", "2", "3")], columns)
    with pytest.raises(ValueError, match=f"own.tsv has no column '{missing}'"):
        items(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; expected a line of column names"),
        (b"index\tindex\n", "the column 'index' is there twice"),
        (b"index\timage\tquestion\tanswer\n1\t2\t\xff\tx\n", "row 1: byte 32 .* is not UTF-8"),
        (b'index\timage\tquestion\tanswer\n1\t2\t"what\n', "row 1: a quote is opened and not"),
    ],
)
def test_a_broken_file_is_named(tmp_path, data, message):
    path = tmp_path / "own.tsv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        items(path)


def test_names_and_pictures_must_be_as_many(tmp_path):
    cell = repr([encoded(), encoded()])
    path = write(
        tmp_path / "own.tsv", [("1", cell, "q", "x", "['a.png']")], (*COLUMNS, "image_path")
    )
    with pytest.raises(ValueError, match="image has 2 pictures and image_path names 1 files"):
        items(path)
    path = write(
        tmp_path / "own.tsv",
        [("1", "b.png", "q", "x")],
        ("index", "image_path", "question", "answer"),
    )
    with pytest.raises(ValueError, match=r"column 'image_path': there is no file 'b\.png'"):
        items(path)


def test_the_limit_of_csv_is_raised():
    assert csv.field_size_limit() > 1 << 24
