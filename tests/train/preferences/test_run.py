"""A whole collection, by a model that answers from a table."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minicpmv.data.files import open_rows
from minicpmv.data.messages import Preference
from minicpmv.errors import ArgumentError
from minicpmv.scenes.questions.figures import caption
from minicpmv.scenes.render import render
from minicpmv.train.preferences import run as collection
from minicpmv.train.preferences.options import PreferenceOptions

from ...helpers.fake_chat import FakeAnswer


class Drawing:
    """Gives the truth, a wrong thing more, an answer without claims and the truth again."""

    def __init__(self, truths: list[str]) -> None:
        self.truths = truths
        self.seeds: list[int] = []

    def batch(self, requests: Any, *, seed: int, **options: Any) -> list[FakeAnswer]:
        assert options["sampling"]
        assert options["temperature"] == 0.7
        self.seeds.append(seed)
        names = [Path(request[0]["content"][0]["image"]).stem for request in requests]
        texts = [self.truths[int(name)] for name in names]
        if seed % 4 == 1:
            texts = [f"A pink cake, {text[:1].lower()}{text[1:]}" for text in texts]
        if seed % 4 == 2:
            texts = ["Well."] * len(texts)
        return [FakeAnswer(text) for text in texts]

    def __enter__(self) -> "Drawing":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawing:
    """Its model; `rows.json` in the folder of the test holds three drawn pictures."""
    rows, truths = [], []
    for seed in range(3):
        scene = render(seed, "train", kind="few")
        scene.image.save(tmp_path / f"{seed}.png")
        truths.append(caption(scene))
        asked = [{"role": "user", "content": "<image>\nDescribe it."}]
        rows.append(
            {
                "id": f"r{seed}",
                "image": f"{seed}.png",
                "conversations": [*asked, {"role": "assistant", "content": "x"}],
                "scene": {"seed": seed, "split": "train", "kind": "few"},
            }
        )
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    chat = Drawing(truths)
    monkeypatch.setattr(collection, "load", lambda *args, **kwargs: chat)
    return chat


def options(folder: Path, **changes: Any) -> PreferenceOptions:
    fields = {"data": str(folder / "rows.json"), "output": str(folder / "pairs.jsonl")}
    return PreferenceOptions(**{**fields, "judge": "scene", "answers": 4, "seed": 0} | changes)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json"])
def test_a_collection(tmp_path: Path, chat: Drawing, name: str) -> None:
    out = tmp_path / name
    found = collection.run(options(tmp_path, output=str(out), balance_lengths=False))
    assert (found.questions, found.answers, found.repeated, found.unjudged) == (3, 12, 3, 3)
    assert (found.candidates, found.pairs, found.rejected) == (3, 3, 3)
    assert chat.seeds == [0, 1, 2, 3]
    rows = open_rows(out)
    assert (rows.format, rows.is_preference) == ("rlaif-v", True)
    for number, row in enumerate(rows):
        assert isinstance(row, Preference)
        assert (row.chosen, row.id) == (chat.truths[number], f"r{number}")
        assert row.rejected.startswith("A pink cake, ")
        assert Path(row.pictures[0].source) == tmp_path / f"{number}.png"
        told = row.rest["org_infos"]["rejected"]
        assert told["claims"][0] == "A pink cake."
        assert told["questions"][0].startswith("Is there a pink cake in the picture?")
        assert (told["verdicts"][0], told["score"]) == ([False, 0.0], -1)


def test_lengths_are_balanced(tmp_path: Path, chat: Drawing) -> None:
    found = collection.run(options(tmp_path))
    assert found.limit is not None
    assert 0 < found.pairs <= 3
    assert found.words[0] < found.words[1]


def test_answers_are_corrected(tmp_path: Path, chat: Drawing) -> None:
    """Each answer makes a pair with itself; one answer to a question will do."""
    opts = {"correct": True, "judge": "scene-objects"}
    found = collection.run(options(tmp_path, **opts))
    assert (found.pairs, found.limit) == (6, None)
    pairs = [row for row in open_rows(tmp_path / "pairs.jsonl") if isinstance(row, Preference)]
    for false, true, truth in zip(pairs[0::2], pairs[1::2], chat.truths, strict=True):
        assert true.chosen == truth
        assert true.rejected.count("thing") == 1
        assert false.rejected.startswith("A pink cake, ")
        assert false.chosen == false.rejected.replace("A pink cake", "A pink thing")
        assert false.rest["org_infos"]["rejected"]["score"] == -1
    assert collection.run(options(tmp_path, **opts, right_share=0.25)).pairs == 4
    assert collection.run(options(tmp_path, **opts, right_share=0.0)).pairs == 3
    one = options(tmp_path, **opts, answers=1, output=str(tmp_path / "one.jsonl"))
    with pytest.raises(ValueError, match="No two answers"):
        collection.run(one)  # all are right: there is nothing to learn


@pytest.mark.parametrize(
    ("variant", "changes", "is_polar"),
    [
        ("nano", {}, False),
        (None, {}, True),
        (None, {"polar": False}, False),
    ],
)
def test_nano_is_asked_as_it_was_trained(
    tmp_path: Path, chat: Drawing, monkeypatch, variant: str | None, changes: Any, is_polar: bool
) -> None:
    asked: list[str] = []

    def probabilities(pictures: Any, questions: Any) -> list[tuple[float, float]]:
        asked.extend(questions)
        return [(0.1, 0.9) if "cake" in question else (0.9, 0.1) for question in questions]

    chat.model = SimpleNamespace(config=SimpleNamespace(variant=variant))  # type: ignore[attr-defined]
    monkeypatch.setattr(collection, "next_tokens", lambda chat: probabilities)
    opts = options(tmp_path, judge="self", balance_yes=True, balance_lengths=False, **changes)
    assert collection.run(opts).pairs
    assert asked
    assert all(question.endswith("Please answer yes or no.") is is_polar for question in asked)
    told = [row.rest["org_infos"]["rejected"] for row in open_rows(tmp_path / "pairs.jsonl")]
    assert {question for row in told for question in row["questions"]} <= set(asked)


def test_going_on_asks_only_what_is_left(tmp_path: Path, chat: Drawing) -> None:
    opts = options(tmp_path, batch=1)
    collection.run(opts)
    first, kept = Path(opts.output).read_text(), Path(opts.output + ".answers.jsonl")
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    kept.write_text("".join(lines[:3]) + lines[3][:20])  # killed in the middle of a line
    chat.seeds.clear()
    collection.run(opts)
    assert chat.seeds == [0, 1, 2, 3]
    assert Path(opts.output).read_text() == first
    chat.seeds.clear()
    collection.run(options(tmp_path, pairs=1))
    assert chat.seeds == []
    with pytest.raises(ValueError, match="other options or data"):
        collection.run(options(tmp_path, temperature=0.9))


def test_answers_that_all_hold_make_no_pairs(tmp_path: Path, chat: Drawing) -> None:
    with pytest.raises(ValueError, match="No two answers of a question differ"):
        collection.run(options(tmp_path, answers=2, seed=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge_model": "x"}, "judge_model has no effect without judge_url"),
        ({"judge_url": "http://x", "judge": "scene"}, "judge and judge_url: give one"),
        ({"output": "pairs.txt"}, "end it in .json, .jsonl, .parquet"),
        ({"balance_yes": True}, "balance_yes has no effect: a scene is certain"),
        ({"judge": "scene-objects", "yes_threshold": 0.9}, "yes_threshold has no effect: a scene"),
        ({"correct": True}, "correct needs judge scene-objects"),
        (
            {"correct": True, "judge": "scene-objects", "splitter": "json:loads"},
            "correct needs splitter rules",
        ),
        ({"right_share": 0.2}, "right_share has no effect without correct"),
        ({"answers": 1}, "answers is 1; a pair needs two without correct"),
        ({"yes_threshold": 1.0}, "it must be below 1"),
        ({"splitter": "magic"}, "give rules, module:function"),
        ({"data": ""}, "data is missing"),
    ],
)
def test_wrong_options(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises((ArgumentError, ValueError), match=message):
        options(tmp_path, **changes).check()
