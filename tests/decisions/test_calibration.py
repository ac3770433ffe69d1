"""Calibrations as files, from examples to probabilities."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv import Calibration, Chat, Question, load
from minicpmv.decisions.calibrate import calibrate, decide_examples
from minicpmv.decisions.calibration import Quality, fingerprint_of
from minicpmv.decisions.decision import Decision, decision_of
from minicpmv.decisions.examples import Labelled, read_examples
from minicpmv.decisions.plot import draw
from minicpmv.evaluate.decisions import TASKS, draw_examples

from ..helpers.chats import FOLDERS, loaded
from ..helpers.pictures import picture

QUALITY = Quality(0.1, 0.5, 0.9)
LABELS = ("a", "b", "c")


def made(chat: Chat, **changes: Any) -> Calibration:
    found = Calibration(
        model="2.6",
        fingerprint=fingerprint_of(chat.model),
        temperature=2.0,
        bias=None,
        list_choices=False,
        average_orders=None,
        num_fitted=20,
        num_held_out=20,
        before=QUALITY,
        after=QUALITY,
    )
    return replace(found, **changes)


def labelled(
    number: int, temperature: float = 2.0, bias: tuple[float, ...] = (0, 0, 0), seed: int = 0
) -> tuple[list[Labelled], list[dict[str, float]]]:
    """Examples and their log-probabilities, which are wrong by a known temperature and bias."""
    rng = np.random.default_rng(seed)
    examples, found = [], []
    for index in range(number):
        row = rng.normal(0, 5, len(LABELS))
        decision = decision_of("choice", dict(zip(LABELS, row.tolist(), strict=True)))
        logits = row / temperature + np.array(bias)
        weights = np.exp(logits - logits.max())
        answer = LABELS[int(rng.choice(len(LABELS), p=weights / weights.sum()))]
        order = list(LABELS) if index % 2 else list(reversed(LABELS))
        question = Question.of(f"{index}?", order)
        examples.append(Labelled(question, (), answer, f"line {index}"))
        found.append({label: decision.logprobs[label] for label in order})
    return examples, found


def test_a_file_holds_what_was_saved(tmp_path: Path) -> None:
    chat = loaded("2.6")
    wanted = made(chat, bias={"a": 0.5, "b": -0.5})
    wanted.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == wanted
    assert Calibration.of(str(tmp_path / "c.json")) == wanted
    assert Calibration.of(wanted) is wanted
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["model"] == "2.6"
    assert data["before"] == asdict(QUALITY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "has version 9; this program reads 1"),
        *(
            ({"temperature": value}, "has temperature .*; it must be from 0.0001 to 1e\\+09")
            for value in (0, "1", None, True, -1, 1e-300, 1e300, math.nan, math.inf, 10**400)
        ),
        *(
            ({"bias": value}, "has bias .*; it must be null, or a number")
            for value in ({"a": 1}, [1, 2], {}, 3, {"a": 1, "b": math.nan}, {"a": 1, "b": 10**400})
        ),
        ({"before": {}}, "has before {}; it must be the numbers ece, nll, accuracy"),
        ({"after": {"ece": "x", "nll": 1, "accuracy": 1}}, "has after"),
        ({"after": {"ece": math.nan, "nll": 1, "accuracy": 1}}, "has after"),
        ({"model": 7}, "has model 7; it must be text"),
        ({"fingerprint": None}, "has fingerprint None; it must be text"),
        ({"list_choices": "no"}, "has list_choices 'no'; it must be true or false"),
        ({"average_orders": True}, "has average_orders True; it must be null, cyclic or all"),
        ({"average_orders": []}, "has average_orders"),
        ({"num_fitted": -1}, "has num_fitted -1; it must be a number of examples"),
        ({"num_held_out": 1.5}, "has num_held_out 1.5"),
        ({"more": 1}, r"is no calibration: it has more besides\. Make it with calibrate"),
    ],
)
def test_damaged_files(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(asdict(made(loaded("2.6"))) | change))
    with pytest.raises(ValueError, match=message):
        Calibration.load(path)
    for text, reason in (
        ("{}", "it lacks after, average_orders, .* \\.\\.\\."),
        ("[3]", r"but \[3\]\."),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"is no calibration.*{reason}"):
            Calibration.load(path)
    for text in ("{", "", "[" * 100_000, json.dumps(asdict(made(loaded("2.6"))))[:-20]):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not JSON"):
            Calibration.load(path)
    with pytest.raises(OSError, match="nowhere"):
        Calibration.load(tmp_path / "nowhere.json")


def test_decisions_are_calibrated(tmp_path: Path) -> None:
    chat = loaded("2.6")
    plain = chat.decide("Which?", choices=["a", "b"])
    assert not plain.is_calibrated
    found = chat.decide("Which?", choices=["a", "b"], calibration=made(chat))
    assert found.is_calibrated
    assert found.choice == plain.choice
    assert found.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
    ratio = math.sqrt(plain.probabilities["a"] / plain.probabilities["b"])
    assert found.probabilities["a"] / found.probabilities["b"] == pytest.approx(ratio, rel=1e-3)
    assert math.fsum(found.probabilities.values()) == pytest.approx(1)
    path = tmp_path / "c.json"
    made(chat, bias={"b": 20.0, "a": -20.0}).save(path)
    biased = chat.decide("Which?", choices=["a", "b"], calibration=path)
    assert biased.choice == "b"
    assert biased.confidence == pytest.approx(biased.probabilities["b"] * biased.mass)


def test_a_calibration_is_refused_where_it_was_not_made_for() -> None:
    chat, other = loaded("2.6"), loaded("2.5")
    with pytest.raises(ValueError, match=r"was made for 2\.6 with weights .*; this model has"):
        other.decide("Which?", choices=["a", "b"], calibration=made(chat))
    biased = made(chat, bias={"a": 1.0, "c": -1.0})
    with pytest.raises(ValueError, match="is for the choices a, c, not for a, b"):
        chat.decide("Which?", choices=["a", "b"], calibration=biased)
    with pytest.raises(ValueError, match="that are not listed in the question"):
        chat.decide("Which?", choices=["a", "b"], list_choices=True, calibration=made(chat))
    listed = made(chat, list_choices=True)
    with pytest.raises(ValueError, match="average_orders=None"):
        chat.decide(
            "Which?",
            choices=["a", "b"],
            list_choices=True,
            average_orders=True,
            calibration=listed,
        )


def test_fingerprints() -> None:
    first = load(FOLDERS["2.6"], device="cpu", dtype="float32")
    same = load(FOLDERS["2.6"], device="cpu", dtype="float32")
    assert fingerprint_of(first.model) == fingerprint_of(same.model)
    assert fingerprint_of(first.model) != fingerprint_of(loaded("2.5").model)
    before = fingerprint_of(same.model)
    same.model.lm_head.weight.data.mul_(1.5)
    same.model.lm_head.weight.requires_grad_(False).add_(0.0)  # in place, as training does
    assert fingerprint_of(same.model) != before
    nano, narrow = (load("nano", device="cpu", dtype=d) for d in ("float32", "bfloat16"))
    assert fingerprint_of(nano.model) == fingerprint_of(narrow.model)


def test_a_known_temperature_and_biases_are_found_in_held_out_examples() -> None:
    chat = loaded("2.6")
    examples, found = labelled(3000, 2.0)
    report = calibrate(chat.model, "2.6", examples, found)
    made_here = report.calibration
    assert made_here.temperature == pytest.approx(2.0, rel=0.1)
    assert made_here.bias is None
    assert made_here.num_fitted + made_here.num_held_out == 3000
    assert made_here.after.ece < made_here.before.ece / 2
    assert made_here.after.nll < made_here.before.nll
    examples, found = labelled(3000, 2.0, (1.5, 0.0, -1.5))
    report = calibrate(chat.model, "2.6", examples, found, with_bias=True, held_out=0.3)
    made_here = report.calibration
    assert made_here.num_held_out == 900
    assert made_here.bias is not None
    wanted = dict(zip(examples[0].question.labels, (-1.5, 0.0, 1.5), strict=True))
    assert made_here.bias == pytest.approx(wanted, abs=0.25)
    assert made_here.after.ece < made_here.before.ece / 2
    assert made_here.after.accuracy > made_here.before.accuracy


def test_examples_that_give_no_calibration() -> None:
    model = loaded("2.6").model
    examples, found = labelled(100)
    with pytest.raises(ValueError, match="There are 30 examples; at least 40"):
        calibrate(model, "2.6", examples[:30], found[:30])
    with pytest.raises(ValueError, match="held_out is 1; it must be above 0 and below 1"):
        calibrate(model, "2.6", examples, found, held_out=1)
    together = [replace(each, group="one picture") for each in examples]
    with pytest.raises(ValueError, match="0 examples are left to fit and 100 to measure"):
        calibrate(model, "2.6", together, found)
    never = [replace(each, answer="a") for each in examples]
    with pytest.raises(ValueError, match="'b' is the answer of none of the 50 examples"):
        calibrate(model, "2.6", never, found, with_bias=True)
    other = [*examples[:-1], Labelled(Question.of("?", ["x", "y"]), (), "x", "line 99")]
    with pytest.raises(
        ValueError, match=r"needs the same choices.*line 0 has 3 and line 99 others"
    ):
        calibrate(model, "2.6", other, [*found[:-1], {"x": 0.0, "y": 0.0}], with_bias=True)
    sure = [
        replace(e, answer=max(f, key=lambda k: f[k])) for e, f in zip(examples, found, strict=True)
    ]
    with pytest.raises(ValueError, match="determine no calibration: all of them can be answered"):
        calibrate(model, "2.6", sure, found)


def test_reading_examples(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = [
        {"question": "What?", "images": ["a.png"], "choices": ["x", "y"], "answer": "y"},
        {"question": "So?", "images": ["a.png"], "kind": "yesno", "answer": "yes"},
        {"question": "So?", "choices": {"p": ["P", "p."], "q": "q"}, "answer": "p"},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    first, second, third = read_examples(path)
    assert first.images == (str(tmp_path / "a.png"),)
    assert (first.answer, second.answer, third.answer) == ("y", "yes", "p")
    assert first.group == second.group != third.group
    assert second.question.labels == ("yes", "no")
    assert third.question.spellings == {"p": ("P", "p."), "q": ("q",)}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_line_feed_ends_an_example(tmp_path: Path, end: str) -> None:
    text = "one\u2028two\x85three\x0b"
    example = {"question": text, "choices": ["a", "b"], "answer": "b"}
    line = json.dumps(example, ensure_ascii=False).replace("\\u000b", "")
    (tmp_path / "data.jsonl").write_bytes(f"{line}{end}{line}{end}".encode())
    first, second = read_examples(tmp_path / "data.jsonl")
    assert first.question.text == second.question.text == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[]", r"line 2 is \[\]; expected an object"),
        (
            '{"question": "Q", "choices": ["a", "b"], "answer": "c"}',
            "answer is 'c'; it must be one of the choices: a, b",
        ),
        (
            '{"question": "Q", "choices": ["1", "2"], "answer": 1}',
            "answer is 1; it must be one of the choices, as text: 1, 2",
        ),
        (
            '{"question": "Q", "choices": ["a", "a"], "answer": "a"}',
            "line 2: choices has 'a' twice",
        ),
        ('{"question": " ", "choices": ["a", "b"], "answer": "a"}', "question is ' '"),
        ('{"question": "Q", "image": "a.png", "answer": "a"}', "'image' is not known"),
        ('{"question": "Q", "images": "a.png", "choices": ["a", "b"], "answer": "a"}', "images is"),
        ('{"question": "Q", "images": [3], "choices": ["a", "b"], "answer": "a"}', "images has 3"),
    ],
)
def test_wrong_examples(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_examples(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no examples"):
        read_examples(path)


def test_deciding_examples_goes_on_from_a_file(tmp_path: Path) -> None:
    chat = loaded("2.6")
    picture(40, 60).save(tmp_path / "a.png")
    question = Question.of("Which?", ["a", "b"])
    examples = [Labelled(question, (str(tmp_path / "a.png"),), "a", f"line {n}") for n in range(4)]
    told: list[tuple[int, int]] = []
    file = tmp_path / "d.jsonl"
    first = decide_examples(
        chat, examples[:2], file=file, on_progress=lambda *done: told.append(done)
    )
    both = decide_examples(chat, examples, file=file, on_progress=lambda *done: told.append(done))
    assert told == [(0, 2), (2, 2), (2, 4), (4, 4)]
    assert both[:2] == first
    whole = file.read_text()
    assert len(whole.splitlines()) == 4
    file.write_text(whole[:-9])  # of a run that was killed while it wrote
    assert decide_examples(chat, examples, file=file) == both
    assert file.read_text() == whole
    with pytest.raises(ValueError, match="of another model or other options"):
        decide_examples(chat, examples, file=file, max_slice_nums=1)
    file.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no decision"):
        decide_examples(chat, examples, file=file)
    wrong = [*examples, Labelled(question, (str(tmp_path / "b.png"),), "a", "line 7")]
    with pytest.raises(ValueError, match=r"line 7: .*b\.png"):
        decide_examples(chat, wrong)


def test_drawn_examples_have_their_answer_among_the_choices() -> None:
    examples = draw_examples(40)
    assert len(examples) == 40
    assert len({each.group for each in examples}) == 40
    for number, each in enumerate(examples):
        assert each.answer in each.question.labels
        task = list(TASKS.values())[number % len(TASKS)]
        if task.reads:
            assert len({len(label) for label in each.question.labels}) == 1
        else:
            assert each.question.labels == tuple(task.choices or ("yes", "no"))
    again = draw_examples(5)
    assert [each.question for each in again] == [each.question for each in examples[:5]]
    assert {each.where for each in draw_examples(5, seed=1)}.isdisjoint(e.where for e in examples)


def test_the_diagram(tmp_path: Path) -> None:
    examples, found = labelled(200)
    report = calibrate(loaded("2.6").model, "2.6", examples, found)
    draw(report, tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as image:
        assert image.format == "PNG"
        assert image.width > 800


def test_probabilities_far_below_the_smallest_float() -> None:
    decision: Decision = decision_of("choice", {"a": -5000.0, "b": -5001.0})
    assert decision.probabilities["a"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert decision.mass == 0
    assert decision.confidence == 0


@pytest.mark.slow
def test_nano_is_calibrated_on_held_out_scenes() -> None:
    chat = load("nano")
    examples = draw_examples(1200)
    report = calibrate(chat.model, "nano", examples, decide_examples(chat, examples))
    assert report.calibration.after.ece <= 0.05
    free = chat.batch(
        [(each.question.text, each.images) for each in examples], sampling=False, num_beams=1
    )
    pairs = zip(free, examples, strict=True)
    right = sum(str(a) in e.question.spellings[e.answer] for a, e in pairs) / len(examples)
    assert report.calibration.after.accuracy >= right - 0.02  # of one half, and of all
