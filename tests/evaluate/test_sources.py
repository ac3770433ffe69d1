"""Data of pages in parquet, JSON lines and folders; where it is found and what is refused."""

import base64
import hashlib
import io
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from minicpmv.evaluate.page import Lookup, Page, Source, load_page
from minicpmv.evaluate.sources import find_data, read_items


def picture(color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(file, format="PNG")
    return file.getvalue()


RED, BLUE = picture("red"), picture("blue")


def page_of(**fields) -> Page:
    source = Source(**{"kind": "jsonl", **fields})
    return Page(name="own", title="t", metric="exact-match", sources=(source,))


def parquet(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return path


def lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No data of this machine, and no network."""
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)


def no_network(repo, **keywords):
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("the hub cannot be reached")


def test_pictures_of_parquet(tmp_path):
    (tmp_path / "b.png").write_bytes(BLUE)
    rows = [
        {"question_id": 5, "question": "one?", "image": {"bytes": RED, "path": "a.png"}},
        {"question_id": 6, "question": "file?", "image": {"bytes": None, "path": "b.png"}},
        {"question_id": 7, "question": "none?", "image": None},
    ]
    path = parquet(tmp_path / "own.parquet", [{**row, "answers": ["x", "y"]} for row in rows])
    first, second, third = read_items(page_of(kind="parquet", file="own.parquet"), path)
    assert first.pictures == (RED,)
    assert second.pictures == (tmp_path / "b.png",)
    assert third.pictures == ()
    assert (first.id, first.answers) == ("5", ("x", "y"))
    assert first.fields == {"question_id": 5}


def test_several_pictures_in_columns_and_in_lists(tmp_path):
    rows = [{"q": "q", "image_1": {"bytes": RED}, "image_2": None, "more": [{"bytes": BLUE}] * 2}]
    page = replace(
        page_of(
            kind="parquet",
            columns={"question": "q", "pictures": ("image_1", "image_2", "more"), "answers": ""},
        )
    )
    (item,) = read_items(page, parquet(tmp_path / "own.parquet", rows))
    assert item.pictures == (RED, BLUE, BLUE)
    assert item.answers == ()


@pytest.mark.parametrize(
    ("fields", "row", "options", "answers"),
    [
        ({"answers_as": "index"}, {"options": ["cat", "dog"], "answer": 1}, "AB", ("B",)),
        ({"answers_as": "letter"}, {"choices": ["cat", "dog"], "answer": "(A)"}, "AB", ("A",)),
        ({"literals": ("options",)}, {"options": "['cat', 'dog']", "answer": "B"}, "AB", ("B",)),
        ({}, {"options": ["A. cat", "B. dog"], "answer": "B"}, "AB", ("B",)),
        ({}, {"options": {"B": "cat", "D": "dog"}, "answer": "B"}, "BD", ("B",)),
        ({}, {"A": "cat", "C": "dog", "answer": "C"}, "AC", ("C",)),
        ({"words": {"1": "Yes"}}, {"answer": "1"}, "", ("Yes",)),
        ({}, {"answers": [{"answer": "a", "id": 1}, {"answer": "b"}]}, "", ("a", "b")),
        ({}, {"answer": 3}, "", ("3",)),
    ],
)
def test_options_and_answers(tmp_path, fields, row, options, answers):
    path = lines(tmp_path / "own.jsonl", [{"question": "q", **row}])
    (item,) = read_items(page_of(**fields), path)
    assert item.options == dict(zip(options, ("cat", "dog"), strict=False))
    assert item.answers == answers


def test_the_first_of_several_columns_with_a_question(tmp_path):
    page = load_page("video-chatgpt-consistency")
    (tmp_path / "v1").mkdir()
    rows = [
        {"video_name": "v1", "question_1": "how?", "question_2": "None", "answer": "x"},
        {"video_name": "v1", "question_1": "None", "question_2": "why?", "answer": "x"},
    ]
    page = replace(page, sources=(replace(page.sources[0], kind="jsonl"),))
    path = lines(tmp_path / "own.jsonl", rows)
    first, second = read_items(page, path)
    assert (first.question, second.question) == ("how?", "why?")
    assert second.fields == {"video_name": "v1", "question_2": "why?"}
    assert first.video == tmp_path / "v1"


def test_marks_where_pictures_belong(tmp_path):
    path = lines(tmp_path / "own.jsonl", [{"question": "<image> or <image>?", "answer": "x"}])
    (item,) = read_items(page_of(marks="<image>"), path)
    assert item.question == "<image 1> or <image 2>?"
    path = lines(tmp_path / "own.jsonl", [{"question": "<图片 2><图片 1><图片 2>", "answer": "x"}])
    (item,) = read_items(page_of(marks=r"<图片 (\d+)>"), path)
    assert item.question == "<image 2><image 1><image 2>"


def test_fields_that_follow_from_others(tmp_path):
    page = page_of(
        columns={"id": ""}, patterns={"id": "{a}_{b}", "joined": "{b}"}, missing=("nan",)
    )
    page = replace(page, lookups={"instruction": Lookup(column="a", values={"1": "Say it."})})
    row = {"question": "q", "answer": "x", "a": 1, "b": "2", "hint": "nan"}
    (item,) = read_items(page, lines(tmp_path / "own.jsonl", [row]))
    assert item.id == "1_2"
    assert item.fields == {"a": 1, "b": "2", "joined": "2", "instruction": "Say it."}


def test_only_rows_of_the_page(tmp_path):
    page = page_of(where={"split": ("validation",)})
    rows = [
        {"question": split, "answer": "x", "split": split} for split in ("dev", "validation", "x")
    ]
    (item,) = read_items(page, lines(tmp_path / "own.jsonl", rows))
    assert (item.question, item.id) == ("validation", "2")


def test_rows_of_your_own(tmp_path):
    (tmp_path / "b.png").write_bytes(BLUE)
    text = base64.b64encode(RED).decode()
    rows = [
        {"question": "q", "image": "b.png", "answer": "x", "kind": {"deep": [1, None]}},
        {"id": "7", "question": "q", "images": [text, "b.png"], "answers": ["x", "y"]},
        {"question": "q", "image": f"data:image/png;base64,{text}", "answer": "x"},
    ]
    first, second, third = read_items(page_of(), lines(tmp_path / "own.jsonl", rows))
    assert first.pictures == (tmp_path / "b.png",)
    assert first.fields == {"kind": {"deep": [1, None]}}
    assert (second.id, second.pictures) == ("7", (RED, tmp_path / "b.png"))
    assert third.pictures == (RED,)


def test_conversations(tmp_path):
    for name, data in (("a.png", RED), ("b.png", BLUE)):
        (tmp_path / name).write_bytes(data)
    content = [
        {"type": "text", "text": "Is "},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": " like "},
        {"type": "image", "image": "b.png"},
        {"type": "text", "text": "?"},
    ]
    rows = [
        {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "no"}]}
    ]
    (item,) = read_items(page_of(), lines(tmp_path / "own.jsonl", rows))
    assert item.question == "Is <image 1> like <image 2>?"
    assert item.answers == ("no",)
    assert [Path(each) for each in item.pictures] == [tmp_path / "a.png", tmp_path / "b.png"]
    llava = {"id": "9", "image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"},
    ]}  # fmt: skip
    (item,) = read_items(page_of(), lines(tmp_path / "own.jsonl", [llava]))
    assert (item.id, item.question, item.answers) == ("9", "What?", ("red",))
    more = [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "yes"}]
    long = {**llava, "conversations": llava["conversations"] + more}
    with pytest.raises(ValueError, match="row 1 has 4 messages; expected one question"):
        list(read_items(page_of(), lines(tmp_path / "own.jsonl", [long])))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "x"}, "row 1 has no value in the column 'question'"),
        ({"question": "q"}, "row 1 has no value in the column 'answer'"),
        ({"question": "q", "answer": "x", "image": "no.png"}, "there is no file 'no.png'"),
        ({"question": "q", "answer": "x", "image": "http://a/b.png"}, "is an address; download"),
        ({"question": "q", "answer": "x", "image": 3}, "column 'image' is 3; expected a picture"),
        ({"question": "q", "answer": "x", "options": "ab"}, "'ab'; expected a list of options"),
        ({"question": "q", "answer": "x", "video": "v"}, "there is no video 'v'"),
        (3, "row 1 is int; expected an object"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, message):
    path = lines(tmp_path / "own.jsonl", [row])
    with pytest.raises(ValueError, match=message) as caught:
        list(read_items(page_of(), path))
    assert "own.jsonl, row 1" in str(caught.value)


def test_pictures_are_looked_for_in_the_same_folders_by_a_relative_name(tmp_path, monkeypatch):
    inner = tmp_path / "questions"
    inner.mkdir()
    lines(inner / "own.jsonl", [{"question": "q", "answer": "x", "image": "no.png"}])
    monkeypatch.chdir(inner)
    with pytest.raises(ValueError, match="there is no file") as caught:
        list(read_items(page_of(), Path("own.jsonl")))
    assert str(caught.value).endswith(f"in {str(inner)!r}, {str(tmp_path)!r}.")


def test_an_answer_that_is_no_option(tmp_path):
    path = lines(tmp_path / "own.jsonl", [{"question": "q", "options": ["a", "b"], "answer": 2}])
    with pytest.raises(ValueError, match="the answer is '2', of 2 options"):
        list(read_items(page_of(answers_as="index"), path))


def test_a_folder_that_datasets_saved(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    table = pyarrow.Table.from_pylist([{"question": "q", "answer": "x", "image": {"bytes": RED}}])
    with (
        pyarrow.OSFile(str(folder / "data.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (item,) = read_items(page_of(kind="parquet", rows=5), folder)
    assert (item.question, item.pictures) == ("q", (RED,))


def test_broken_json_and_parquet(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "q", "answer": "x"}\n{"question: \n', "utf-8")
    with pytest.raises(ValueError, match=r"own.jsonl, row 2 \(line 2\): this is no JSON"):
        list(read_items(page_of(), path))
    path = tmp_path / "own.parquet"
    path.write_bytes(b"PAR1nothing")
    with pytest.raises(ValueError, match=r"own.parquet is no parquet file"):
        list(read_items(page_of(kind="parquet"), path))
    rows = [{"question": "q", "answer": "x", "image": {"bytes": b"nothing", "path": "a"}}]
    with pytest.raises(ValueError, match=r"row 1, column 'image': 7 bytes .* are no picture"):
        list(read_items(page_of(kind="parquet"), parquet(path, rows)))
    with pytest.raises(ValueError, match=r"own.parquet has no column 'text_1'; it has question"):
        list(read_items(page_of(kind="parquet", columns={"question": "text_1"}), path))


def test_videos_and_their_subtitles(tmp_path):
    page = load_page("video-mme-subtitles")
    row = {"question_id": "1", "question": "q", "options": ["A. a", "B. b"], "answer": "B"}
    rows = [{**row, "question_id": name, "videoID": name} for name in ("v", "w")]
    for name in ("v", "w"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.mp4").write_bytes(b"")
    path = parquet(tmp_path / "videomme" / "test-00000-of-00001.parquet", rows)
    own = path.rename(tmp_path / "own.parquet")
    with pytest.raises(ValueError, match=r"no folder of subtitles .* Unpack subtitle.zip"):
        list(read_items(page, own))
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle" / "v.srt").write_text("")
    first, second = read_items(page, own)
    assert first.video == tmp_path / "data" / "v.mp4"
    assert first.options == {"A": "a", "B": "b"}
    assert first.fields["subtitles"] == str(tmp_path / "subtitle" / "v.srt")
    assert second.fields["subtitles"] == ""


def test_files_of_a_folder(tmp_path):
    page = load_page("textvqa-val")
    row = {"question": "q", "answers": ["x"], "image": {"bytes": RED}}
    for part in (0, 1):
        path = tmp_path / "data" / f"validation-0000{part}-of-00002.parquet"
        parquet(path, [{"question_id": 2 * part + n, **row} for n in (0, 1)])
    source = replace(page.sources[1], rows=4)
    found = list(read_items(replace(page, sources=(source,)), tmp_path))
    assert [item.id for item in found] == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="has 4 rows for textvqa-val; the published data has 5000"):
        list(read_items(page, tmp_path))


TABLE = f"index\timage\tquestion\tanswer\n1\t{base64.b64encode(RED).decode()}\tq\tx\n".encode()


def table_page(**fields) -> Page:
    md5 = hashlib.md5(TABLE).hexdigest()
    return page_of(**{"kind": "tsv", "file": "Own.tsv", "md5": ("0" * 32, md5), **fields})


def test_a_table_of_lmudata_is_the_published_one(tmp_path):
    folder = tmp_path / "LMUData"
    folder.mkdir()
    (folder / "Own.tsv").write_bytes(TABLE)
    assert len(list(read_items(table_page(size=len(TABLE), rows=1)))) == 1
    for fields, message in (
        ({"md5": ("0" * 32,)}, r"Own.tsv has the md5 \w{32}; the published Own.tsv has 0{32}"),
        ({"size": 7}, r"Own.tsv has \d+ bytes; the published Own.tsv has 7"),
        ({"rows": 2}, "Own.tsv has 1 rows for own; the published data has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            list(read_items(table_page(**fields)))
    own = folder / "mine.tsv"
    own.write_bytes(TABLE)
    assert len(list(read_items(table_page(md5=("0" * 32,), rows=9), own))) == 1


def test_what_is_nowhere_is_named(tmp_path):
    page = load_page("ocrbench")
    nowhere = replace(page.sources[0], url="http://localhost:9/OCRBench.tsv")
    with pytest.raises(OSError, match=r"Wanted: OCRBench.tsv in ") as caught:
        find_data(replace(page, sources=(nowhere, page.sources[1])))
    message = str(caught.value)
    assert str(tmp_path / "LMUData") in message
    assert "(from http://localhost:9/OCRBench.tsv, md5 e953d98a987cc6e26ef717b61260b778)" in message
    assert (
        "a folder with data/test-*.parquet as --data "
        "(from https://huggingface.co/datasets/echo840/OCRBench)." in message
    )
    with pytest.raises(
        OSError, match=r"there is no such file or folder. Wanted: a folder with Own"
    ):
        find_data(table_page(), tmp_path / "nothing")
    with pytest.raises(OSError, match=r"holds no file of own"):
        find_data(table_page(), tmp_path)
    with pytest.raises(ValueError, match=r"expected a file ending in .tsv"):
        find_data(table_page(), lines(tmp_path / "own.txt", []))
    with pytest.raises(ValueError, match="opencompass-8 has no items of its own"):
        find_data(load_page("opencompass-8"))


def test_the_cache_of_the_hub_comes_before_the_network(tmp_path, monkeypatch):
    parquet(tmp_path / "hub" / "data" / "test-0.parquet", [{"question": "q", "answer": "x"}])
    asked = []

    def snapshot(repo, **keywords):
        asked.append((repo, keywords["local_files_only"], keywords["allow_patterns"]))
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    page = page_of(kind="parquet", repo="some/data", file="data/test-*.parquet")
    assert len(list(read_items(page))) == 1
    assert asked == [("some/data", True, ["data/test-*.parquet"])]


def test_a_download_goes_on_where_it_stopped(tmp_path, capsys):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            first = int((asked[-1] or "bytes=0-")[6:-1])
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(TABLE) - first))
            self.end_headers()
            self.wfile.write(TABLE[first:])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/Own.tsv"
        folder = tmp_path / "LMUData"
        folder.mkdir()
        (folder / "Own.tsv.part").write_bytes(TABLE[:20])
        assert len(list(read_items(table_page(url=url, licence="MIT")))) == 1
        assert len(list(read_items(table_page(url=url)))) == 1
        assert asked == ["bytes=20-"]
        assert "Licence: MIT." in capsys.readouterr().err
        (folder / "Own.tsv").unlink()
        with pytest.raises(OSError, match=r"gave a file with the md5 \w+; expected 0{32}"):
            find_data(table_page(url=url, md5=("0" * 32,)))
        assert not list(folder.iterdir())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
