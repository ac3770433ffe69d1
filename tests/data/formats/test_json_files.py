"""JSON files are read one row at a time, and past what is broken in them."""

import json
from pathlib import Path

import pytest

from minicpmv.data import json_rows
from minicpmv.data.faults import Fault
from minicpmv.data.files import open_rows
from minicpmv.data.messages import Conversation

from ...helpers.rows import opened, turns

ROWS = [{"id": str(n), "conversations": turns(f"q{n}", f"ä{n}")} for n in range(4)]
ONE = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def told(path: Path) -> list[str]:
    """Ids of the rows of a file, and "line N" of broken ones; by every way to read them."""
    rows = open_rows(path)
    found = list(rows)
    assert list(rows) == found
    again = open_rows(path)
    assert again.count() == len(found)
    assert [again.row(n) for n in reversed(range(len(found)))] == found[::-1]
    for n, row in enumerate(found):
        assert row.row == n
    return [row.field if isinstance(row, Fault) else str(row.id) for row in found]


@pytest.fixture(params=[1 << 20, 7, 64])
def small_buffers(request, monkeypatch):
    """Files are read in pieces of few bytes too, so that rows lie across their borders."""
    monkeypatch.setattr(json_rows._Stream, "chunk", request.param)
    return request.param


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.json", json.dumps(ROWS, indent=2, ensure_ascii=False).replace("\n", "\r\n")),
        ("a.json", "\ufeff" + json.dumps(ROWS, ensure_ascii=False)),
        ("a.json", "\ufeff\n\n " + json.dumps(ROWS) + "\n\n"),
        ("a.jsonl", json.dumps(ROWS, indent=1)),
        ("a.jsonl", "\n".join(ONE)),
        ("a.jsonl", "\n\n".join(ONE) + "\n\n"),
        ("a.json", "\r\n".join(ONE) + "\r\n"),
        ("a.json", "\ufeff" + "\n".join(ONE)),
        ("a.json", "\n".join(json.dumps(row, indent=1) for row in ROWS)),
        ("rows", "\n".join(ONE)),
    ],
)
def test_a_file_is_read_as_what_it_holds(tmp_path, small_buffers, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert told(path) == ["0", "1", "2", "3"]


def listed(*elements: str, end: str = "\n]") -> str:
    return "[\n" + ",\n".join(elements) + end


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (listed(ONE[0], "{'id': 1}", *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(ONE[0], '{"id": tru}', *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(ONE[0], ONE[1][:-1], *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(ONE[0], ONE[1][:-2], *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(ONE[0], ONE[1][:-30], *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(ONE[0], ONE[1].replace('"id"', 'id"'), *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(ONE[0], "nonsense", *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(ONE[0], "", *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed('{"id": }', *ONE[1:]), ["line 2", "1", "2", "3"]),
        (listed(ONE[0] + "\n" + ONE[1], *ONE[2:]), ["0", "line 3", "2", "3"]),
        (listed(*ONE, end=",\n]"), ["0", "1", "2", "3", "line 6"]),
        (listed(*ONE, end=""), ["0", "1", "2", "3", "line 5"]),
        (listed(*ONE, end="] x"), ["0", "1", "2", "3", "line 5"]),
        (listed(*ONE[:3], ONE[3][:40], end=""), ["0", "1", "2", "line 5"]),
        ("\n".join([ONE[0], ONE[1][:-1], *ONE[2:]]), ["0", "line 2", "2", "3"]),
        ("\n".join([ONE[0], ONE[1] + ",", *ONE[2:]]), ["0", "line 2", "2", "3"]),
        ("\n".join([ONE[0], "x", *ONE[2:]]), ["0", "line 2", "2", "3"]),
        ("\n".join(["{", *ONE[1:]]), ["line 1", "1", "2", "3"]),
        ("\n".join([*ONE[:3], ONE[3][:50]]), ["0", "1", "2", "line 4"]),
    ],
)
def test_reading_goes_on_behind_a_broken_row(tmp_path, small_buffers, text, expected):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert told(path) == expected


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("value", [5, "text", None, [1], True, {}, {"foo": 1}])
def test_a_row_that_is_no_row(tmp_path, suffix, value):
    rows = opened(tmp_path / f"a{suffix}", [ROWS[0], value, ROWS[2]])
    found = list(rows)
    assert isinstance(found[1], Fault)
    assert (found[1].row, found[1].kind) == (1, "not_a_row")
    assert [row.id for row in found[::2]] == ["0", "2"]


def test_bytes_that_are_not_utf_8_are_a_fault(tmp_path):
    for text in ("[\n" + ",\n".join(ONE) + "]", "\n".join(ONE)):
        path = tmp_path / "a.json"
        path.write_bytes(text.encode().replace("ä1".encode(), b"\xe41"))
        found = list(open_rows(path))
        assert [isinstance(row, Fault) for row in found] == [False, True, False, False]
        assert "UTF-8" in found[1].message


def test_nan_says_nothing_and_a_key_stands_once(tmp_path):
    path = tmp_path / "a.jsonl"
    nan = ONE[1][:-1] + ', "image": NaN}'
    twice = ONE[2][:-1] + ', "image": "a", "image": "b"}'
    inner = ONE[3].replace('"content": "q3"', '"content": "x", "content": "y"')
    path.write_text("\n".join([ONE[0], nan, twice, inner]))
    found = list(open_rows(path))
    assert isinstance(found[1], Conversation)
    assert found[1].pictures == ()
    assert (found[2].field, found[3].field) == ("image", "content")
    path.write_text("[" + ",".join([ONE[0], nan, twice, inner]) + "]")
    assert list(open_rows(path)) == found


def test_deep_and_long_values_are_faults(tmp_path):
    path = tmp_path / "a.jsonl"
    deep = "[" * 100_000
    path.write_text("\n".join([ONE[0], deep, '{"id": ' + "1" * 5000 + "}", ONE[3]]))
    assert told(path) == ["0", "line 2", "line 3", "3"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"  \n \n", "is empty"),
        (b"[]", "holds no rows"),
        ("[{}]".encode("utf-16"), "UTF-16"),
        (b'[{"foo": 1}]', "found keys foo; known formats are official"),
        (b"[1, 2]", "found no objects"),
        (b"hello", "line 1: this is no JSON"),
        (b"\x89PNG\r\n\x1a\n", "line 1"),
    ],
)
def test_a_file_without_rows(tmp_path, content, why):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        open_rows(path)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_file_whose_rows_are_all_broken_has_faults(tmp_path, suffix):
    """As the example in the readme of the released scripts once was: no JSON, but Python."""
    path = tmp_path / f"a{suffix}"
    rows = ["{'id': '0'}", '{"id": True}', '{"id": [1,]}', '{"id": "x"']
    path.write_text(listed(*rows) if suffix == ".json" else "\n".join(rows))
    found = list(open_rows(path))
    assert [(row.row, row.kind) for row in found] == [(n, "not_a_row") for n in range(4)]
    hints = ("double quotes", "true, false and null", "no comma before a closing bracket")
    assert all(hint in row.message for hint, row in zip(hints, found, strict=False))


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.json are not there"):
        open_rows(tmp_path / "no.json")
    with pytest.raises(ValueError, match="'foo' is not known; known are official"):
        opened(tmp_path / "a.json", ROWS, format="foo")
    with pytest.raises(FileNotFoundError, match="folder of pictures"):
        opened(tmp_path / "a.json", ROWS, image_folder=tmp_path / "none")
    with pytest.raises(IndexError, match="has 4 rows"):
        opened(tmp_path / "a.json", ROWS).row(4)
