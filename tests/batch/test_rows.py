"""Rows of a file and of a folder: what is sent, and what is said of those that cannot be."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minicpmv.batch.rows import PictureFolder, RequestFile, Row


def request(name: str, **changes: Any) -> dict[str, Any]:
    body = {"model": "nano", "messages": [{"role": "user", "content": "Hello"}]}
    return {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    } | changes


def showing(address: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": address, "detail": "low"}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]}


def written(path: Path, *lines: Any) -> RequestFile:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return RequestFile(path, model="nano")


def test_rows_keep_their_order_and_their_bodies(tmp_path: Path) -> None:
    without_model = request("b")
    del without_model["body"]["model"]
    source = written(tmp_path / "in.jsonl", "\ufeff" + json.dumps(request("a")), "", without_model)
    overview = source.look()
    assert (overview.count, overview.models) == (2, {"nano": 1})
    rows = list(source.rows())
    assert [row.index for row in rows] == [0, 1]
    assert [row.custom_id for row in rows] == ["a", "b"] == list(source.names())
    assert json.loads(rows[0].body) == json.loads(rows[1].body) == request("a")["body"]


def test_a_path_becomes_the_bytes_of_the_file_and_an_address_stays(tmp_path: Path) -> None:
    picture = tmp_path / "a b.png"
    Image.new("RGB", (3, 2), "red").save(picture)
    source = written(
        tmp_path / "in.jsonl",
        request("path", body=showing("a b.png")),
        request("file", body=showing(picture.as_uri())),
        request("web", body=showing("https://example.org/a.png")),
    )
    urls = []
    for row in source.rows():
        part = json.loads(row.body)["messages"][0]["content"][0]["image_url"]
        assert part["detail"] == "low"
        urls.append(part["url"])
    assert urls[0] == urls[1]
    assert urls[0].startswith("data:image/png;base64,")
    assert base64.b64decode(urls[0].partition(",")[2]) == picture.read_bytes()
    assert urls[2] == "https://example.org/a.png"


BROKEN = {
    "{broken": "line 1 is not JSON: Expecting property name",
    '"text"': "line 1 is 'text'; expected an object",
    "[1]": "line 1 is \\[1\\]; expected an object",
    json.dumps({"body": {}}): "line 1: custom_id is missing",
    json.dumps(request("a") | {"custom_id": 3}): "line 1: custom_id is 3; expected text",
    json.dumps(request("a", method="GET")): "line 1: method is 'GET'; expected 'POST'",
    json.dumps(
        request("a", url="/v1/embeddings")
    ): "line 1: url is '/v1/embeddings'; known are /v1",
    json.dumps(request("a", url=["x"])): "line 1: url is \\['x'\\]",
    json.dumps(request("a", body="x")): "line 1: body is 'x'; expected an object",
    json.dumps(request("a", metadata=1)): "line 1: 'metadata' is not a field of a row",
    json.dumps(request("a", body={"stream": True})): "line 1: body.stream is set",
    json.dumps(
        request("a", body=showing("none.png"))
    ): "line 1: body.messages\\[0\\].content\\[0\\].image_url.url: 'none.png' in .*: No such file",
    json.dumps(request("a", body=showing("../x.png"))): "'../x.png', which is outside of",
    json.dumps(request("a", body=showing("file:///etc/hostname"))): "which is outside of",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_row_says_what_is_wrong_and_others_are_read(tmp_path: Path, line: str) -> None:
    rows = list(written(tmp_path / "in.jsonl", line, request("good")).rows())
    assert [row.fault is None for row in rows] == [False, True]
    assert rows[0].fault is not None
    with pytest.raises(ValueError, match=BROKEN[line]):
        raise ValueError(rows[0].fault)


def test_two_rows_of_one_name_and_a_file_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 3: custom_id 'a' is that of line 1"):
        written(tmp_path / "twice", request("a"), request("b"), request("a")).look()
    with pytest.raises(ValueError, match="holds no rows"):
        written(tmp_path / "empty", "", " ").look()
    with pytest.raises(ValueError, match="no line is a request with a custom_id"):
        written(tmp_path / "other", {"messages": []}, "x").look()


def test_the_digest_changes_with_the_rows_and_how_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    digests = {written(path, request("a")).look().digest, written(path, request("b")).look().digest}
    digests |= {RequestFile(path, model="other").look().digest}
    digests |= {RequestFile(path, tmp_path / "x", model="nano").look().digest}
    assert len(digests) == 4
    assert written(path, request("a")).look().digest in digests


def test_a_folder_is_read_by_name_with_one_prompt(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.JPG", "a/10.jpg", ".hidden.png", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"picture")
    source = PictureFolder(tmp_path, "What?", {"model": "m", "max_tokens": 3})
    assert source.look().count == 3
    rows: list[Row] = list(source.rows())
    assert [row.custom_id for row in rows] == ["a/10.jpg", "a/2.JPG", "b.png"]
    body = json.loads(rows[2].body)
    picture, text = body.pop("messages")[0]["content"]
    assert body == {"model": "m", "max_tokens": 3}
    assert text == {"type": "text", "text": "What?"}
    assert picture["image_url"]["url"] == "data:image/png;base64,cGljdHVyZQ=="
    with pytest.raises(ValueError, match=r"holds no pictures. Expected files that end in \.bmp"):
        PictureFolder(tmp_path / "none", "What?", {}).look()


def test_a_file_that_changes_meanwhile_is_not_gone_on_with(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", request("a"), request("b"))
    source.look()
    rows = source.rows()
    assert next(rows).custom_id == "a"
    source.path.write_text(source.path.read_text() + "\n" + json.dumps(request("c")))
    with pytest.raises(OSError, match=r"in\.jsonl was changed while its rows were answered"):
        next(rows)


def test_pictures_that_come_later_have_no_place_in_the_batch(tmp_path: Path) -> None:
    for name in ("b.png", "c.png"):
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    source = PictureFolder(tmp_path, "What?", {})
    assert source.look().count == 2
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    assert [row.custom_id for row in source.rows()] == list(source.names()) == ["b.png", "c.png"]


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes((json.dumps(request("a")) + "\n").encode("utf-16"))
    with pytest.raises(ValueError, match=r"is UTF-16; expected UTF-8"):
        RequestFile(path).look()


def test_an_address_that_cannot_be_read_is_the_fault_of_its_row(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", request("a", body=showing("file://[x/a.png")))
    (row,) = source.rows()
    assert row.fault is not None
    assert "Invalid IPv6" in row.fault
