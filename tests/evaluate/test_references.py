"""The rows of VLMEvalKit's TSV files as JSON lines and parquet: the same items, and the same
errors."""

import base64
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from minicpmv.evaluate.own import own_page
from minicpmv.evaluate.page import load_page
from minicpmv.evaluate.sources import read_items

PAGE = load_page("mmbench-en-v11-dev")
ROW = {"question": "Q?", "A": "a", "B": "b", "answer": "A"}


def picture(color):
    file = io.BytesIO()
    Image.new("RGB", (20, 16), color).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


RED, BLUE = picture("red"), picture("blue")


def write(folder, kind, rows):
    path = folder / f"own.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [columns, *([str(row.get(key, "")) for key in columns] for row in rows)]
        path.write_text("".join("\t".join(cells) + "\n" for cells in lines))
    return path


def shown(path):
    return [
        (item.id, item.options, [base64.b64encode(each).decode() for each in item.pictures])
        for item in read_items(PAGE, path)
    ]


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_references_and_lists_are_read_alike(tmp_path, kind):
    images = ["3", RED, str([RED, "2"]), "1", json.dumps([BLUE, RED])]
    rows = [{"index": n, "image": image, **ROW} for n, image in enumerate(images, 1)]
    options = {"A": "a", "B": "b"}
    assert shown(write(tmp_path, kind, rows)) == [
        ("1", options, [RED, RED]),
        ("2", options, [RED]),
        ("3", options, [RED, RED]),
        ("4", options, [RED, RED]),
        ("5", options, [BLUE, RED]),
    ]


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (["2", "3", "1"], "in a circle, 1 -> 2 -> 3 -> 1"),
        (["1", RED, RED], "in a circle, 1 -> 1"),
        ([str([RED, "1"]), RED, RED], "in a circle, 1 -> 1"),
        ([RED, "9", RED], "row 2(?: .index 2.)?, column 'image'"),
    ],
)
def test_references_that_lead_nowhere_are_named(tmp_path, kind, images, said):
    rows = [{"index": n, "image": image, **ROW} for n, image in enumerate(images, 1)]
    with pytest.raises(ValueError, match=said):
        shown(write(tmp_path, kind, rows))


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_a_benchmark_has_a_picture_in_every_row(tmp_path, kind):
    rows = [{"index": 1, "image": RED, **ROW}, {"index": 2, **ROW}]
    path = write(tmp_path, kind, rows)
    with pytest.raises(ValueError, match=r"row 2.*expected (a picture|one in every row)"):
        shown(path)
    if kind != "tsv":
        own = own_page(path, "mcq")
        assert [len(item.pictures) for item in read_items(own, path)] == [1, 0]


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_numbers_that_are_none_are_no_options(tmp_path, kind):
    nan = float("nan")
    rows = [{"index": 7.0, "image": RED, **ROW, "C": nan, "hint": nan}]
    (item,) = read_items(PAGE, write(tmp_path, kind, rows))
    assert (item.id, item.options) == ("7", {"A": "a", "B": "b"})
    assert not item.fields.get("hint")
