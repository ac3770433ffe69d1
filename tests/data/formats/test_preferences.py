"""Good rows of the formats of preferences, and what they mean."""

import json

import pytest

from minicpmv.data.messages import Picture, Preference

from .helpers import answer, image, opened, read, turns, user

GOOD = {
    "rlaif-v": {
        "ds_name": "RLAIF-V",
        "image": {"bytes": b"P", "path": "x.jpg"},
        "question": "What?",
        "chosen": "A cat.",
        "rejected": "A dog.",
        "idx": 3,
        "logps": "[]",
    },
    "rlhf-v": {
        "image": {"bytes": b"P", "path": "x.jpg"},
        "text": json.dumps({"question": "What?", "chosen": "A cat.", "rejected": "A dog."}),
        "idx": 3,
    },
    "trl": {
        "images": [b"P"],
        "prompt": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
        ],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
        "rejected": [{"role": "assistant", "content": "A dog."}],
        "idx": 3,
    },
    "swift-preference": {
        "messages": turns("<image>What?", "A cat."),
        "images": [{"bytes": b"P", "path": None}],
        "rejected_response": "A dog.",
        "idx": 3,
    },
    "llama-factory-preference": {
        "messages": turns("<image>What?"),
        "chosen": {"role": "assistant", "content": "A cat."},
        "rejected": {"role": "assistant", "content": "A dog."},
        "images": [b"P"],
        "idx": 3,
    },
}


@pytest.mark.parametrize("name", GOOD)
def test_one_preference_in_every_format(name):
    found = read(name, GOOD[name])
    expected = Preference((user(Picture(b"P"), "What?"),), "A cat.", "A dog.", rest=found.rest)
    assert found == expected
    assert found.rest["idx"] == 3


def test_columns_of_log_probabilities_are_kept():
    assert read("rlaif-v", GOOD["rlaif-v"]).rest == {
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
