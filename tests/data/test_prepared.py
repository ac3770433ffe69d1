"""Files of rows as examples on disk: the same examples, reused while nothing changes."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from minicpmv.data.encode import EncodeSettings, encode_conversation, encode_preference
from minicpmv.data.faults import DataError, Fault
from minicpmv.data.files import open_rows
from minicpmv.data.messages import Conversation, Message, Picture, Preference
from minicpmv.data.pictures import PictureReader
from minicpmv.data.prepared import Prepared, prepare
from minicpmv.data.report import Report
from minicpmv.media.image import load_image
from minicpmv.media.policy import MediaPolicy, use_policy

from ..helpers.conversations import picture, processor_of


class FakeRows:
    """Rows in memory under the name of a file."""

    format = "fake"
    reading = "fake"

    def __init__(self, path: Path, rows):
        self.path = path
        self.files = [path]
        self.rows = rows
        self.is_preference = any(isinstance(row, Preference) for row in rows)
        if not path.exists():
            path.write_text("rows")

    def __iter__(self):
        return iter(self.rows)

    def count(self):
        return len(self.rows)


def talk(row, *parts, answer="Red."):
    return Conversation((Message("user", parts), Message("assistant", (answer,))), row=row)


def png(colour):
    data = io.BytesIO()
    picture(colour=colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def rows(tmp_path):
    picture(900, 500).save(tmp_path / "large.png")
    picture(colour="blue").save(tmp_path / "small.png")
    large, small = str(tmp_path / "large.png"), str(tmp_path / "small.png")
    frames = (picture(colour="red"), small)
    found = [
        talk(0, "Hi"),
        talk(1, Picture(large), "What?"),
        talk(2, Picture(small), Picture(png("green")), "Which?"),
        talk(3, Picture(frames, "video"), "Film?", answer="Short."),
        Conversation(
            (
                Message("user", (Picture(large),)),
                Message("assistant", ("A field.",)),
                Message("user", ("Of what?",)),
                Message("assistant", ("Wheat.",)),
            ),
            row=4,
        ),
        talk(5, Picture(picture(colour="white")), "And this?"),
    ]
    return FakeRows(tmp_path / "data.json", found)


SETTINGS = EncodeSettings(max_length=2048)


def same(first, second):
    assert (first.row, first.part, first.spans) == (second.row, second.part, second.spans)
    for name in ("input_ids", "targets", "mm_token_type_ids"):
        ours, theirs = getattr(first, name), getattr(second, name)
        assert ours.dtype == theirs.dtype
        assert (ours == theirs).all()
    assert [ref.cut for ref in first.pictures] == [ref.cut for ref in second.pictures]
    assert [ref.sizes for ref in first.pictures] == [ref.sizes for ref in second.pictures]


def test_examples_come_back_from_disk(rows, tmp_path):
    processor = processor_of("2.6")
    prepared, report = prepare(rows, processor, SETTINGS, tmp_path / "run" / "data")
    reader = PictureReader()
    expected = [
        example for row in rows for example in encode_conversation(processor, row, SETTINGS, reader)
    ]
    assert len(prepared) == len(expected) == report.examples
    for ours, theirs in zip(prepared, expected, strict=True):
        same(ours, theirs)
        assert len(ours.pictures) == len(theirs.pictures)
        if ours.pictures:
            pixels, _ = reader.pixels(processor, ours.pictures)
            assert pixels.equal(reader.pixels(processor, theirs.pictures)[0])
    assert prepared.lengths.tolist() == [len(example.input_ids) for example in expected]
    assert prepared.num_trained.tolist() == [example.num_trained for example in expected]
    assert not prepared.is_preference
    same(pickle.loads(pickle.dumps(prepared))[2], expected[2])
    assert not list((tmp_path / "run").glob("*.unfinished"))


def test_the_report_counts(rows, tmp_path):
    rows.rows.append(Fault(6, "image", "missing_picture", "no picture"))
    _, report = prepare(rows, processor_of("2.6"), SETTINGS, None)
    assert (report.rows, report.good_rows, report.examples) == (7, 6, 6)
    assert (report.text_only_rows, report.pictures, report.videos) == (1, 5, 1)
    assert report.turns == {1: 5, 2: 1}
    assert report.distinct_pictures == 5  # large.png is shown twice
    assert report.faults == {"missing_picture": 1}
    assert report.longest_row in (1, 4)
    assert report.trimmed_rows == 0
    assert 0 < report.trained_share < 1
    assert "missing_picture 1" in report.as_text()
    copied = Report.from_dict(report.as_dict())
    assert copied.as_dict() == report.as_dict()
    assert copied.as_text() == report.as_text()


def test_pictures_are_decoded_once(rows, monkeypatch):
    opened = []

    def opening(source):
        opened.append(source)
        return load_image(source)

    monkeypatch.setattr("minicpmv.data.pictures.load_image", opening)
    prepare(rows, processor_of("2.6"), SETTINGS, None, num_threads=1)
    assert len([name for name in opened if str(name).endswith("large.png")]) == 1


def test_the_same_file_is_not_prepared_again(rows, tmp_path, monkeypatch):
    processor = processor_of("2.6")
    out = tmp_path / "data"
    _, first = prepare(rows, processor, SETTINGS, out)
    made = (out / "prepared.json").stat().st_ino
    again, second = prepare(rows, processor, SETTINGS, out)
    assert (out / "prepared.json").stat().st_ino == made
    assert second.as_dict() == first.as_dict()
    assert len(again) == 6
    for change in (
        lambda: EncodeSettings(max_length=2048, max_slice_nums=1),
        lambda: rows.path.write_text("other rows") and SETTINGS,
        lambda: picture(910, 500).save(tmp_path / "large.png") or SETTINGS,
    ):
        before = (out / "prepared.json").stat().st_ino
        keep = os.open(out / "prepared.json", os.O_RDONLY)  # so that its number is not used again
        prepare(rows, processor, change(), out)
        os.close(keep)
        assert (out / "prepared.json").stat().st_ino != before
    assert len(prepare(rows, processor_of("2.0"), SETTINGS, out)[0]) == 6


def test_faults_are_told_when_the_whole_file_was_read(rows, tmp_path):
    rows.rows[0] = talk(0, "Hi", answer=" ")
    rows.rows.append(Fault(6, "image", "missing_picture", "no picture"))
    seen, done = [], []
    with pytest.raises(DataError, match="row 0") as caught:
        prepare(
            rows,
            processor_of("2.6"),
            SETTINGS,
            tmp_path / "data",
            on_fault=seen.append,
            on_progress=lambda n, total: done.append((n, total)),
        )
    assert [fault.kind for fault in caught.value.faults] == ["empty_answer", "missing_picture"]
    assert caught.value.total == 2
    assert seen == list(caught.value.faults)
    assert done == [(n, 7) for n in range(1, 8)]
    assert not (tmp_path / "data").exists()
    prepared, report = prepare(
        rows, processor_of("2.6"), SETTINGS, tmp_path / "data", skip_bad_rows=True
    )
    assert report.skipped_rows == 2
    assert "skipped rows" in report.as_text()
    assert [prepared[i].row for i in range(len(prepared))] == [1, 2, 3, 4, 5]
    with pytest.raises(DataError):  # and is not reused where nothing may be skipped
        prepare(rows, processor_of("2.6"), SETTINGS, tmp_path / "data")


def test_a_file_without_good_rows_is_an_error(tmp_path):
    rows = FakeRows(tmp_path / "data.json", [Fault(0, "", "not_a_row", "broken")])
    with pytest.raises(ValueError, match="holds no row"):
        prepare(rows, processor_of("2.6"), SETTINGS, tmp_path / "out", skip_bad_rows=True)


def test_pairs_stand_behind_each_other(tmp_path):
    pairs = [
        Preference((Message("user", (f"Question {i}?",)),), "Yes, it is.", "No.", row=i)
        for i in range(3)
    ]
    rows = FakeRows(tmp_path / "data.json", pairs)
    prepared, report = prepare(rows, processor_of("minicpm-2b"), SETTINGS, tmp_path / "out")
    assert prepared.is_preference
    assert report.preferences
    assert len(prepared) == 6
    for i, pair in enumerate(pairs):
        expected = encode_preference(processor_of("minicpm-2b"), pair, SETTINGS, PictureReader())
        same(prepared[2 * i], expected[0])
        same(prepared[2 * i + 1], expected[1])


def test_text_alone_has_no_pictures_on_disk(tmp_path):
    rows = FakeRows(tmp_path / "data.json", [talk(0, "Hi"), talk(1, "More")])
    prepared, _ = prepare(rows, processor_of("minicpm-2b"), SETTINGS, tmp_path / "out")
    assert prepared.num_pictures == 0
    assert prepared[1].pictures == ()


def test_the_policy_in_force_holds_in_the_threads(rows, tmp_path):
    with use_policy(MediaPolicy(schemes={"data"})):
        _, report = prepare(rows, processor_of("2.6"), SETTINGS, None, num_threads=2)
    assert report.faults.get("missing_picture", 0) >= 3


def test_the_reading_of_a_file_is_part_of_what_it_was_made_from(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        picture(colour=colour).save(tmp_path / name / "0.png")
    file = tmp_path / "data.json"
    said = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "Red."}]
    file.write_text(json.dumps([{"id": "0", "image": "0.png", "conversations": said}]))
    digests = set()
    for name in ("a", "b", "a"):
        rows = open_rows(file, image_folder=tmp_path / name)
        prepared, _ = prepare(rows, processor_of("2.6"), SETTINGS, tmp_path / "out")
        digests.add(prepared[0].pictures[0].digest)
    assert len(digests) == 2


def test_nothing_is_left_of_a_folder_of_others(tmp_path):
    with pytest.raises(OSError, match=r"prepared\.json"):
        Prepared(tmp_path)


def test_order_is_that_of_the_file_with_many_threads(tmp_path):
    names = []
    for i in range(12):
        path = tmp_path / f"{i}.png"
        side = 20 + 300 * (i % 3 == 0)
        picture(side, side, "blue").save(path)
        names.append(str(path))
    found = [talk(i, Picture(names[i % 12]), f"Which is it? {i}") for i in range(60)]
    rows = FakeRows(tmp_path / "data.json", found)
    prepared, _ = prepare(rows, processor_of("2.6"), SETTINGS, tmp_path / "out", num_threads=6)
    assert [prepared[i].row for i in range(60)] == list(range(60))
    assert prepared.num_pictures == 12
    assert np.all(prepared.lengths > 0)


def test_answers_that_the_template_trims_are_counted(tmp_path):
    rows = FakeRows(tmp_path / "data.json", [talk(0, "Hi"), talk(1, "Hi", answer="Red.\n")])
    counts = {
        model: prepare(rows, processor_of(model), SETTINGS, None)[1].trimmed_rows
        for model in ("2.6", "2.5", "minicpm-2b")
    }
    assert counts == {"2.6": 0, "2.5": 1, "minicpm-2b": 1}
