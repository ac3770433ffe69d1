"""Rows and files that would hang, be lost in silence, or fill more than one line."""

import json
import os

import pytest
from PIL import Image

from minicpmv.data import convert as module
from minicpmv.data.convert import convert
from minicpmv.data.encode import EncodeSettings, encode_preference
from minicpmv.data.faults import DataError, Fault
from minicpmv.data.files import open_rows
from minicpmv.data.messages import Message, Picture, Preference
from minicpmv.data.pictures import PictureReader

from ..helpers.conversations import processor_of


def official(image, content="<image_00> and <image_01>?"):
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]
    return {"id": "0", "image": image, "conversations": said}


def test_a_table_keeps_the_pictures_of_placeholders(tmp_path):
    """A column `image` of placeholders must not be taken for one of bytes and path."""
    rows = [
        official({"<image_00>": "a.png", "<image_01>": "b.png"}),
        official({"<image_00>": "c.png", "<image_02>": "d.png"}, "<image_02><image_00>"),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    convert(tmp_path / "rows.json", tmp_path / "rows.parquet", "official")
    convert(tmp_path / "rows.parquet", tmp_path / "again.json", "official")
    assert list(open_rows(tmp_path / "rows.parquet")) == list(open_rows(tmp_path / "rows.json"))
    assert list(open_rows(tmp_path / "again.json")) == list(open_rows(tmp_path / "rows.json"))


def test_a_table_that_reads_differently_is_not_written(tmp_path, monkeypatch):
    (tmp_path / "rows.json").write_text(json.dumps([official("a.png", "<image>Is it?")]))

    def without_text(rows, path):
        changed = [r | {"conversations": r["conversations"][:1] * 2} for r in rows()]
        write(lambda: iter(changed), path)

    write = module.write_parquet
    monkeypatch.setattr(module, "write_parquet", without_text)
    with pytest.raises(ValueError, match="Row 0 would read differently from a table"):
        convert(tmp_path / "rows.json", tmp_path / "rows.parquet", "official")
    assert not (tmp_path / "rows.parquet").exists()


def test_a_null_picture_is_a_fault_where_its_placeholder_stands(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([official({"<image_00>": "a.png", "<image_01>": None})]))
    (fault,) = open_rows(path)
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.field) == ("missing_picture", 'image["<image_01>"]')


def test_pipes_are_neither_opened_as_pictures_nor_as_rows(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "rows.json")
    with pytest.raises(OSError, match="no plain file"):
        PictureReader().look(Picture(str(tmp_path / "pipe.png")))
    with pytest.raises(OSError, match="no plain file"):
        open_rows(tmp_path / "rows.json")


def test_a_fault_is_one_line():
    assert str(Fault(1, "image", "missing_picture", "'a\nb.png' is not there")) == (
        "row 1, image: 'a b.png' is not there"
    )


def test_who_must_speak_is_said_in_whole_words(tmp_path):
    path = tmp_path / "rows.json"
    user = {"role": "user", "content": "q"}
    path.write_text(json.dumps([{"conversations": [user, user]}]))
    (fault,) = open_rows(path)
    assert isinstance(fault, Fault)
    assert fault.message.endswith("an assistant's must stand here")


def test_answers_that_are_cut_to_the_same_tokens_are_a_fault():
    nano_processor = processor_of("nano")
    start = "The picture shows a red circle, a blue square and "
    prompt = (Message("user", (Picture(Image.new("RGB", (9, 9))), "What is it?")),)
    pair = Preference(prompt, start + "a star.", start + "a green line.")
    whole = encode_preference(nano_processor, pair, EncodeSettings(), PictureReader())
    assert whole[0].num_cut == whole[1].num_cut == 0
    settings = EncodeSettings(max_length=len(whole[0].input_ids) - 8, cut=True)
    with pytest.raises(DataError, match="chosen and the rejected answer are the same"):
        encode_preference(nano_processor, pair, settings, PictureReader())
