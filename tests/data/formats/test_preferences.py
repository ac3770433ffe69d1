"""Good rows of the formats of preferences, and what they mean."""

import pytest

from minicpmv.data.messages import Picture, Preference

from ...helpers.rows import PREFERENCE_ROWS, answer, image, opened, read, turns, user


@pytest.mark.parametrize("name", PREFERENCE_ROWS)
def test_one_preference_in_every_format(name):
    found = read(name, PREFERENCE_ROWS[name])
    expected = Preference((user(Picture(b"P"), "What?"),), "A cat.", "A dog.", rest=found.rest)
    assert found == expected
    assert found.rest["idx"] == 3


def test_columns_of_log_probabilities_are_kept():
    assert read("rlaif-v", PREFERENCE_ROWS["rlaif-v"]).rest == {
        "ds_name": "RLAIF-V",
        "idx": 3,
        "logps": "[]",
    }


def test_trl_plain_texts_and_an_implicit_prompt():
    row = {"prompt": "What?", "chosen": "A", "rejected": "B", "image": "a.png"}
    assert read("trl", row) == Preference((user(image("a.png"), "What?"),), "A", "B")
    row = {"chosen": turns("q", "a", "r", "s"), "rejected": turns("q", "a", "r", "t")}
    assert read("trl", row) == Preference((user("q"), answer("a"), user("r")), "s", "t")


def test_swift_rejected_messages_and_older_columns():
    row = {"messages": turns("q", "a"), "rejected_messages": turns("q", "b")}
    assert read("swift-preference", row) == Preference((user("q"),), "a", "b")
    row = {"query": "q", "response": "a", "rejected_response": "b"}
    assert read("swift-preference", row) == Preference((user("q"),), "a", "b")


def test_llama_factory_preferences_are_told_by_their_columns(tmp_path):
    said = turns("<image>What?", key="from", value="value")
    pair = {
        "chosen": {"from": "gpt", "value": "A"},
        "rejected": {"from": "gpt", "value": "B"},
    }
    rows = opened(tmp_path / "x.json", [{"conversations": said, **pair, "images": ["a.png"]}])
    assert (rows.format, rows.is_preference) == ("llama-factory-preference", True)
    (row,) = rows
    picture = Picture(str(tmp_path / "a.png"))
    assert row == Preference((user(picture, "What?"),), "A", "B")
