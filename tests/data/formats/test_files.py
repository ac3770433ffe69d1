"""The format of a file is told by its rows; tables and dataset_info.json are found."""

import json

import pytest

from minicpmv.data.faults import Fault
from minicpmv.data.files import open_rows
from minicpmv.data.formats import FORMATS
from minicpmv.data.messages import Conversation, Picture

from ...helpers.rows import (
    CHAT,
    CONVERSATION_ROWS,
    PREFERENCE_ROWS,
    answer,
    opened,
    turns,
    user,
    write_rows,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize(("name", "row"), CONVERSATION_ROWS.items())
def test_the_format_is_told_by_the_rows(tmp_path, name, row):
    rows = opened(tmp_path / "a.jsonl", [row, row])
    assert rows.format == name
    assert all(isinstance(found, Conversation) for found in rows)


@pytest.mark.parametrize("name", PREFERENCE_ROWS)
def test_the_format_of_preferences_is_told(tmp_path, name):
    row = {key: value for key, value in PREFERENCE_ROWS[name].items() if key != "image"}
    row = {**row, "images": ["a.png"]} if "images" in row else row
    rows = opened(tmp_path / "a.jsonl", [row])
    assert (rows.format, rows.is_preference) == (name, True)


def test_text_beside_pictures_does_not_hide_the_format(tmp_path):
    """Rows of text fit several formats; the one that fits the pictures too is taken."""
    for name in ("hf", "swift", "openai"):
        rows = opened(tmp_path / f"{name}.jsonl", [*[CHAT] * 19, CONVERSATION_ROWS[name]])
        assert rows.format == name
        assert not any(isinstance(found, Fault) for found in rows)


def test_pictures_behind_the_rows_that_were_looked_at_are_seen(tmp_path):
    rows = [
        *[CHAT] * 30,
        CONVERSATION_ROWS["hf"],
        CONVERSATION_ROWS["swift"],
        CONVERSATION_ROWS["openai"],
    ]
    found = list(opened(tmp_path / "a.jsonl", rows))
    assert [len(row.pictures) for row in found[-3:]] == [1, 1, 1]


def test_rows_of_another_format_are_faults(tmp_path):
    others = [
        CONVERSATION_ROWS["llava"],
        CONVERSATION_ROWS["swift"],
        {**PREFERENCE_ROWS["swift-preference"], "images": ["a.png"]},
    ]
    rows = [CONVERSATION_ROWS["official"]] * 3 + others
    found = list(opened(tmp_path / "a.json", rows))
    assert [isinstance(row, Fault) for row in found] == [False] * 3 + [True] * 3
    assert "the format official of this file reads" in found[4].message


def test_where_relative_pictures_begin(tmp_path):
    (tmp_path / "img").mkdir()
    row = {"image": "a.png", "conversations": turns("<image>", "x")}
    path = write_rows(tmp_path / "a.json", [row])
    assert next(iter(open_rows(path))).pictures == (Picture(f"{tmp_path}/a.png"),)
    found = open_rows(path, image_folder=tmp_path / "img")
    assert next(iter(found)).pictures == (Picture(f"{tmp_path}/img/a.png"),)


def test_a_table_is_read_by_rows(tmp_path):
    rows = [{**PREFERENCE_ROWS["rlaif-v"], "question": f"q{n}"} for n in range(300)]
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path, row_group_size=70)
    found = open_rows(path)
    assert found.count() == 300
    assert [row.prompt[0].text for row in found] == [f"q{n}" for n in range(300)]
    assert [found.row(n).prompt[0].text for n in (0, 69, 70, 299)] == ["q0", "q69", "q70", "q299"]
    with pytest.raises(IndexError, match="has 300 rows"):
        found.row(300)


def test_a_damaged_table(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [PREFERENCE_ROWS["rlaif-v"]] * 3)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="no parquet file, or not a whole one"):
        open_rows(path)
    spoilt = bytearray(data)
    spoilt[4:60] = b"\xff" * 56  # the pages, not the footer
    path.write_bytes(bytes(spoilt))
    found = list(open_rows(path, format="rlaif-v"))
    assert [(row.row, row.kind) for row in found] == [(n, "not_a_row") for n in range(3)]


def test_folders_of_parquet_files(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_rows(tmp_path / f"{name}.parquet", [{**PREFERENCE_ROWS["rlaif-v"], "idx": name}])
    assert [row.rest["idx"][:11] for row in open_rows(tmp_path)] == ["train-00000", "train-00001"]
    assert open_rows(tmp_path, split="test").count() == 1
    with pytest.raises(ValueError, match="has the splits test, train"):
        open_rows(tmp_path, split="dev")


def save_to_disk(folder, rows):
    """As `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(folder / "data-0.arrow"), "wb") as file:
        writer = pa.ipc.new_stream(file, table.schema)
        writer.write_table(table, max_chunksize=2)
        writer.close()
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def test_folders_that_datasets_saved(tmp_path):
    rows = [{"messages": turns(f"q{n}", "a"), "images": []} for n in range(5)]
    save_to_disk(tmp_path / "one", rows)
    found = open_rows(tmp_path / "one")
    assert (found.format, found.count()) == ("hf", 5)
    assert [row.messages[0].text for row in found] == ["q0", "q1", "q2", "q3", "q4"]
    assert found.row(3) == list(found)[3]
    save_to_disk(tmp_path / "all/train", rows)
    save_to_disk(tmp_path / "all/test", rows[:2])
    splits = {"splits": ["train", "test"]}
    (tmp_path / "all/dataset_dict.json").write_text(json.dumps(splits))
    assert open_rows(tmp_path / "all").count() == 5
    assert open_rows(tmp_path / "all", split="test").count() == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no rows"):
        open_rows(tmp_path / "none")


ALPACA = {
    "prompt": "question", "query": "input", "response": "output", "history": "before",
    "images": "images",
}  # fmt: skip
INFO = {
    "share": {
        "file_name": "share.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "images": "pics", "system": "sys"},
        "tags": {"user_tag": "me", "assistant_tag": "it"},
    },
    "alpaca": {"file_name": "alpaca.json", "columns": ALPACA},
    "far": {"hf_hub_url": "x/y"},
}


def llama_factory(tmp_path, info=INFO):
    talk = [{"from": "me", "value": "<image>q"}, {"from": "it", "value": "a"}]
    write_rows(tmp_path / "share.json", [{"talk": talk, "pics": ["a.png"], "sys": "S"}])
    row = {"question": "I<image>", "input": "in", "output": "O", "before": [["q", "a"]]}
    write_rows(tmp_path / "alpaca.json", [{**row, "images": ["b.png"]}])
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))


def test_llama_factory_reads_by_its_dataset_info(tmp_path):
    llama_factory(tmp_path)
    for place in (tmp_path / "share.json", f"{tmp_path}/dataset_info.json::share"):
        (row,) = open_rows(place)
        assert [message.role for message in row.messages] == ["system", "user", "assistant"]
        assert row.messages[1] == user(Picture(f"{tmp_path}/a.png"), "q")
    (row,) = open_rows(f"{tmp_path}::alpaca")
    asked = user("I", Picture(f"{tmp_path}/b.png"), "in")
    assert row.messages == (user("q"), answer("a"), asked, answer("O"))


@pytest.mark.parametrize(
    ("place", "info", "why"),
    [
        ("dataset_info.json", INFO, "has the entries share, alpaca, far; name one"),
        ("dataset_info.json::none", INFO, "has no entry 'none'"),
        ("dataset_info.json::far", INFO, "has no file_name"),
        ("alpaca.json::x", INFO, "is no dataset_info.json"),
        ("dataset_info.json", {"a": {"file_name": "share.json", "formatting": "x"}}, "formatting"),
        ("dataset_info.json", {"a": {"file_name": "share.json", "columns": {"x": "y"}}}, "has 'x'"),
        ("dataset_info.json", {"a": {"file_name": "share.json", "ranking": True}}, "ranking needs"),
        (
            "dataset_info.json",
            {"a": {"file_name": "wiki.txt", "columns": {"prompt": "text"}}},
            "columns has no 'response', which alpaca needs",
        ),
        (
            "dataset_info.json",
            {"a": {"file_name": "share.json", "columns": {"kto_tag": "y"}}},
            "kto_tag is not supported",
        ),
    ],
)
def test_a_dataset_info_that_is_wrong(tmp_path, place, info, why):
    llama_factory(tmp_path, info)
    with pytest.raises(ValueError, match=why):
        open_rows(f"{tmp_path}/{place}")


def test_every_format_has_a_name_of_its_own():
    assert [fmt.name for fmt in FORMATS.values()] == list(FORMATS)
