"""Files are converted there and back, whole or not at all."""

import base64
import json

import pytest

from minicpmv.data.convert import convert
from minicpmv.data.faults import DataError, Fault
from minicpmv.data.files import open_rows
from minicpmv.data.formats import FORMATS
from minicpmv.errors import ArgumentError

from ...helpers.rows import turns, write_rows

CONVERSATIONS = [name for name, fmt in FORMATS.items() if not fmt.is_preference]
PREFERENCES = [name for name, fmt in FORMATS.items() if fmt.is_preference]
OFFICIAL = [
    {"id": "0", "image": "img/a.png", "conversations": turns("<image>\nWhat?", "A cat.", "?", "!")},
    {
        "id": "1",
        "image": {"<image_00>": "img/a.png", "<image_01>": "/else/b.png"},
        "conversations": turns("<image_00>\nand <image_01> here", "图", "q", "<box>1 2</box>"),
        "source": {"who": "me"},
    },
    {"conversations": turns("Text only", "Yes")},
    {"id": "3", "image": "https://host/c.png", "conversations": turns("<image>", "Far")},
]
RLAIF = [
    {"image": "img/a.png", "question": "What?", "chosen": "A cat.", "rejected": "A dog.", "idx": 0},
    {"question": "Text?", "chosen": "Yes", "rejected": "No", "idx": 1},
]
RICH = [
    {
        "messages": [
            {"role": "system", "content": "S"},
            {
                "role": "user",
                "content": [{"type": "video", "fps": 2.0}, {"type": "text", "text": "q"}],
            },
            {"role": "assistant", "content": "a", "train": False},
            *turns("r", "b"),
        ],
        "videos": ["v.mp4"],
    }
]


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_official_there_and_back(tmp_path, name, suffix):
    first = write_rows(tmp_path / "first.json", OFFICIAL)
    done = convert(first, tmp_path / f"second{suffix}", name)
    assert (done.num_rows, done.source_format, done.format) == (4, "official", name)
    convert(done.out, tmp_path / "third.json", "official", format=name)
    assert json.loads((tmp_path / "third.json").read_text()) == OFFICIAL


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_there_and_back(tmp_path, name):
    first = write_rows(tmp_path / "first.jsonl", RLAIF)
    done = convert(first, tmp_path / "second.jsonl", name)
    assert list(open_rows(done.out)) == list(open_rows(first))
    assert open_rows(done.out).format == name


@pytest.mark.parametrize("name", ["hf", "openai", "swift"])
def test_parquet_there_and_back(tmp_path, name):
    first = write_rows(tmp_path / "first.json", OFFICIAL)
    done = convert(first, tmp_path / "second.parquet", name)
    found = list(open_rows(done.out, format=name))
    assert found == list(open_rows(first))


def test_what_a_table_cannot_hold(tmp_path):
    first = write_rows(tmp_path / "first.json", OFFICIAL)
    with pytest.raises(ValueError, match=r"no table.*Write \.json or \.jsonl"):
        convert(first, tmp_path / "second.parquet", "official")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json"]


def test_a_format_that_says_everything(tmp_path):
    first = write_rows(tmp_path / "first.jsonl", RICH)
    convert(first, tmp_path / "second.parquet", "hf")
    convert(tmp_path / "second.parquet", tmp_path / "third.jsonl", "hf")
    assert list(open_rows(tmp_path / "third.jsonl")) == list(open_rows(first))


def test_llama_factory_gets_its_dataset_info(tmp_path):
    first = write_rows(tmp_path / "first.json", OFFICIAL)
    convert(first, tmp_path / "train.json", "llama-factory")
    pairs = write_rows(tmp_path / "pairs.json", RLAIF)
    convert(pairs, tmp_path / "dpo.json", "llama-factory-preference")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["train"]["columns"] == {"messages": "messages", "images": "images"}
    assert info["dpo"]["ranking"] is True
    for place in ("train.json", "dataset_info.json::train"):
        rows = open_rows(tmp_path / place)
        assert (rows.format, list(rows)) == ("llama-factory", list(open_rows(first)))
    rows = open_rows(f"{tmp_path}::dpo")
    assert (rows.format, list(rows)) == ("llama-factory-preference", list(open_rows(pairs)))


@pytest.mark.parametrize("entry", [{"file_name": "mine.json"}, {"hf_hub_url": "x/y"}, None])
def test_an_entry_of_others_is_not_replaced(tmp_path, entry):
    first = write_rows(tmp_path / "first.json", OFFICIAL)
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"train": entry} if entry else {"features": {}}))
    before = info.read_text()
    with pytest.raises(ValueError, match="another"):
        convert(first, tmp_path / "train.json", "llama-factory")
    assert info.read_text() == before
    assert not (tmp_path / "train.json").exists()


def test_pictures_that_are_no_files_are_written(tmp_path):
    png = b"\x89PNG\r\n\x1a\n data"
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    rows = [
        {"image": {"bytes": png, "path": "x"}, "question": "q", "chosen": "a", "rejected": "b"},
        {"image": {"bytes": png, "path": "y"}, "question": "r", "chosen": "a", "rejected": "b"},
    ]
    first = write_rows(tmp_path / "first.parquet", rows)
    done = convert(first, tmp_path / "out.jsonl", "rlaif-v")
    (picture,) = done.others
    assert picture.parent == tmp_path / "out.jsonl.images"
    assert picture.read_bytes() == png
    assert [row.pictures[0].source for row in open_rows(done.out)] == [str(picture)] * 2
    row = {"messages": turns("<image>q", "a"), "images": [url]}
    done = convert(write_rows(tmp_path / "u.jsonl", [row]), tmp_path / "o.json", "official")
    assert done.others[0].read_bytes() == png


def test_nothing_is_written_if_a_row_has_a_fault(tmp_path):
    rows = [{"image": {"bytes": b"x", "path": None}, "question": "q", "chosen": "a"}]
    rows = [{**rows[0], "rejected": "b"}, {**rows[0], "rejected": ""}, {**rows[0], "rejected": "a"}]
    first = write_rows(tmp_path / "first.parquet", rows)
    with pytest.raises(DataError) as caught:
        convert(first, tmp_path / "out.jsonl", "trl")
    assert caught.value.faults == (
        Fault(1, "rejected", "empty_answer", caught.value.faults[0].message),
        Fault(2, "rejected", "same_answers", caught.value.faults[1].message),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["first.parquet"]


def test_what_cannot_be_said_names_row_field_and_formats(tmp_path):
    first = write_rows(tmp_path / "first.jsonl", [*RICH, *RICH])
    with pytest.raises(DataError, match=r"row 0, videos\[0\]: a video cannot be said in .*llava"):
        convert(first, tmp_path / "out.json", "llava")


@pytest.mark.parametrize(
    ("out", "to", "error", "why"),
    [
        ("out.txt", "hf", ArgumentError, "ends in none of .json"),
        ("out.json", "foo", ArgumentError, "is no format; known are official"),
        ("out.json", "trl", ArgumentError, "cannot hold conversations; formats that can: official"),
        ("first.json", "hf", FileExistsError, "is there already"),
        ("no/out.json", "hf", FileNotFoundError, "no is not there"),
    ],
)
def test_arguments_that_are_refused(tmp_path, out, to, error, why):
    first = write_rows(tmp_path / "first.json", OFFICIAL)
    with pytest.raises(error, match=why):
        convert(first, tmp_path / out, to)
    with pytest.raises(ArgumentError, match="is the file that is read"):
        convert(first, first, "hf", overwrite=True)
