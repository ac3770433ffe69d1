"""Results survive any end, and stand in order at last."""

import json
from pathlib import Path

import pytest

from minicpmv.batch.journal import Journal

ABOUT = {"rows": 3, "digest": "d"}


def test_results_come_in_any_order_and_end_in_that_of_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, ABOUT, 3) as journal:
        for index in (2, 0, 1):
            journal.add(index, {"n": index, "text": "é\n\u2028"}, failed=index == 0)
        assert (journal.num_done, journal.num_failed) == (3, 1)
        journal.finish()
    lines = out.read_bytes().split(b"\n")
    assert [json.loads(line)["n"] for line in lines[:-1]] == [0, 1, 2]
    assert lines[-1] == b""
    assert json.loads(lines[0])["text"] == "é\n\u2028"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_journal_that_was_cut_anywhere_goes_on(tmp_path: Path, cut: int) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, ABOUT, 3) as journal:
        journal.add(1, {"n": 1}, failed=False)
        journal.add(0, {"n": 0}, failed=False)
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[: len(data) - cut])
    with Journal(out, ABOUT, 3) as journal:
        for index in range(3):
            if not journal.has(index):
                journal.add(index, {"n": index}, failed=False)
        journal.finish()
    assert [json.loads(line)["n"] for line in out.read_text().splitlines()] == [0, 1, 2]


def test_rows_whose_lines_a_power_cut_has_emptied_are_asked_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, ABOUT, 3) as journal:
        for index in range(3):
            journal.add(index, {"n": index}, failed=False)
    head, first, second, third = journal.path.read_bytes().splitlines(keepends=True)
    emptied = [bytes(20) + first[20:], second[:20] + bytes(len(second) - 22) + second[-2:]]
    journal.path.write_bytes(head + b"".join(emptied) + third)
    with Journal(out, ABOUT, 3) as journal:
        assert [journal.has(index) for index in range(3)] == [False, False, True]
        journal.add(0, {"n": "again"}, failed=False)
        journal.add(1, {"n": "again"}, failed=False)
        journal.finish()
    found = [json.loads(line)["n"] for line in out.read_text().splitlines()]
    assert found == ["again", "again", 2]


def test_results_of_another_batch_or_another_file_stay_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, ABOUT, 3) as journal:
        journal.add(1, {}, failed=False)
    before = journal.path.read_bytes()
    with pytest.raises(ValueError, match="batch with digest 'd'; this one has 'e'"):
        Journal(out, ABOUT | {"digest": "e"}, 3)
    assert journal.path.read_bytes() == before
    journal.path.write_bytes(b"my notes\n")
    with pytest.raises(ValueError, match="holds no results of a batch"):
        Journal(out, ABOUT, 3)
    assert journal.path.read_bytes() == b"my notes\n"
    journal.path.write_bytes(before + b"?}\n")
    with pytest.raises(ValueError, match="a line that is no result"):
        Journal(out, ABOUT, 3)


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "out", ABOUT, 3),
        pytest.raises(OSError, match="is being written by another process"),
    ):
        Journal(tmp_path / "out", ABOUT, 3)


def test_finished_results_are_taken_back_to_ask_the_failed_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    good = {"custom_id": "a", "response": {"status_code": 200}, "error": None}
    bad = {"custom_id": None, "response": None, "error": {"code": "x"}}
    refused = {"custom_id": "c", "response": {"status_code": 400}, "error": None}
    out.write_text("".join(json.dumps(each) + "\n" for each in (good, bad, refused)))
    with Journal(out, ABOUT, 3) as journal:
        journal.take(["a", None, "c"])
        assert journal.num_failed == 2
        journal.forget_failed()
        assert [journal.has(index) for index in range(3)] == [True, False, False]
        journal.path.unlink()
    with (
        Journal(out, ABOUT, 3) as journal,
        pytest.raises(ValueError, match="line 3 is no result of the row 'd'"),
    ):
        journal.take(["a", None, "d"])
    assert not journal.path.exists()
