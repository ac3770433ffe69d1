"""Runs: every item is answered once, after whatever end, and nothing is mixed or dropped."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minicpmv.evaluate.answering import LocalAnswerer, Model
from minicpmv.evaluate.items import Item
from minicpmv.evaluate.journal import Answered, Run, RunJournal
from minicpmv.evaluate.own import own_page
from minicpmv.evaluate.page import Profile
from minicpmv.evaluate.report.table import warnings_of
from minicpmv.evaluate.run import ask, asking_of, items_of
from minicpmv.evaluate.scoring import score_run
from minicpmv.loader import load

from ..helpers.evaluation import Echo, lines_of, write_questions, write_rows

REPOSITORY = Path(__file__).parents[2]
MODEL = Model("echo", "2.6", weights="abcd", dtype="bfloat16")


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path)


@pytest.fixture(scope="module")
def nano():
    with load("nano", "cpu", "float32") as chat:
        yield chat


def prepared(file, limit=None, **how):
    page = own_page(file, "exact-match")
    items = items_of(page, file, limit)
    return asking_of(page, "2.6", items, **how), items


def test_a_run_that_is_stopped_goes_on_to_the_same_answers(questions, tmp_path):
    asking, items = prepared(questions)
    ask(asking, items, Echo(), tmp_path / "whole")
    dying = Echo(dies_after=3)
    with pytest.raises(KeyboardInterrupt):
        ask(asking, items, dying, tmp_path / "run")
    with (tmp_path / "run" / "answers.jsonl").open("ab") as file:
        file.write(b'{"id": "q7", "pro')  # a process that was killed
    other = Echo(order=-1)
    outcome = ask(asking, items, other, tmp_path / "run")
    assert not set(dying.asked) & set(other.asked)
    assert sorted(dying.asked + other.asked) == [f"q{n}" for n in range(8)]
    assert outcome.ids == [f"q{n}" for n in range(8)]
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")  # in the page's order
    assert ask(asking, items, Echo(dies_after=0), tmp_path / "run").answers == outcome.answers


KILLED = """
import sys, time
from pathlib import Path
from minicpmv.evaluate.own import own_page
from minicpmv.evaluate.run import ask, asking_of, items_of
from tests.helpers.evaluation import Echo

class Slow(Echo):
    def answers(self, asking, items):
        for found in super().answers(asking, items):
            yield found
            if len(self.asked) == 4:
                print("four", flush=True)
                time.sleep(600)

file = Path(sys.argv[1])
page = own_page(file, "exact-match")
items = items_of(page, file)
ask(asking_of(page, "2.6", items), items, Slow(), sys.argv[2])
"""


def test_a_run_that_is_killed_goes_on_to_the_same_answers(questions, tmp_path):
    words = [sys.executable, "-c", KILLED, str(questions), str(tmp_path / "run")]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "four\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    asking, items = prepared(questions)
    rest = Echo()
    ask(asking, items, rest, tmp_path / "run")
    ask(asking, items, Echo(), tmp_path / "whole")
    assert rest.asked == ["q4", "q5", "q6", "q7"]
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": replace(MODEL, weights="ffff")}, "with weights 'abcd', and this run has 'ffff'"),
        ({"model": replace(MODEL, dtype="float16")}, "with dtype 'bfloat16', and this run has 'fl"),
        ({"model": replace(MODEL, quantized="nf4")}, "with quantized None, and this run has 'nf4'"),
        ({"profile": "1.0"}, "with profile '2.6', and this run has '1.0'"),
        ({"num_beams": 1}, r"with asked.2.6.num_beams 3, and this run has 1\. Give another --out"),
        ({"version": 2}, "with page version 1, and this run has 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_answers_of_other_settings_are_refused_by_name(questions, tmp_path, change, message):
    asking, items = prepared(questions)
    ask(asking, items, Echo(model=MODEL), tmp_path / "run")
    model = change.pop("model", MODEL)
    if "version" in change:
        asking = replace(asking, page=replace(asking.page, version=change.pop("version")))
    else:
        asking, _ = prepared(questions, **change)
    with pytest.raises(ValueError, match=message):
        ask(asking, items, Echo(model=model), tmp_path / "run")


def test_answers_to_other_questions_or_pictures_are_refused(questions, tmp_path):
    asking, items = prepared(questions)
    ask(asking, items, Echo(), tmp_path / "run")
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    rows[3]["question"] = "What else?"
    write_rows(questions, rows)
    with pytest.raises(ValueError, match="has an answer to item 'q3', which was asked otherwise"):
        ask(asking, items, Echo(), tmp_path / "run")


def test_what_failed_is_kept_named_and_asked_again(questions, tmp_path):
    asking, items = prepared(questions)
    outcome = ask(asking, items, Echo(fails=["q2", "q5"]), tmp_path / "run")
    assert outcome.failures == {"q2": "out of memory", "q5": "out of memory"}
    scoring = score_run(asking.page, items, tmp_path / "run")
    assert (scoring.total, scoring.answered, scoring.failed) == (8, 6, 2)
    warned = warnings_of(scoring, count=None, limit=None, judge="none")
    assert warned == [
        "mine: 2 of 8 items have no answer; the score is over 6. The same command asks them again."
    ]
    again = Echo()
    assert ask(asking, items, again, tmp_path / "run").failures == {}
    assert again.asked == ["q2", "q5"]
    assert len(lines_of(tmp_path / "run")) == 8


def test_an_item_whose_prompt_cannot_be_made_fails_alone(questions, tmp_path):
    asking, items = prepared(questions)
    page = replace(asking.page, profiles={"2.6": Profile(interleaved=True)})
    many = [*items, Item("bad", "See <image 4>.")]
    outcome = ask(replace(asking, page=page), many, Echo(), tmp_path / "run")
    assert outcome.failures == {"bad": "Item 'bad' speaks of <image 4> and has 0 pictures."}
    assert len(outcome.answers) == 8


def test_a_limit_asks_the_first_and_a_later_run_the_others(questions, tmp_path):
    asking, items = prepared(questions, limit=3)
    first, second = Echo(), Echo()
    assert ask(asking, items, first, tmp_path / "run").ids == ["q0", "q1", "q2"]
    asking, items = prepared(questions)
    ask(asking, items, second, tmp_path / "run")
    assert (first.asked, second.asked) == (["q0", "q1", "q2"], [f"q{n}" for n in range(3, 8)])


def test_two_processes_do_not_write_one_run(tmp_path):
    with (
        RunJournal(tmp_path, {"page": "x"}, {}),
        pytest.raises(OSError, match="is being written by another process"),
    ):
        RunJournal(tmp_path, {"page": "x"}, {})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "answers.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match=r"has answers.jsonl and no run.json"):
        RunJournal(tmp_path, {}, {})
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Run(tmp_path / "nothing")


def test_what_is_no_text_is_kept_as_it_can_be_read(tmp_path):
    with RunJournal(tmp_path, {"page": "x"}, {}) as journal:
        journal.add(Answered("1", "p", "caf\u00e9 \u2028 \ud800"))
        journal.add(Answered("2", "p", ""))
    answers = Run(tmp_path).answers
    assert (answers["1"].answer, answers["2"].answer) == ("caf\u00e9 \u2028 ?", "")


# With the bundled model.


def answered(nano, asking, items, folder, batch_size):
    ask(asking, items, LocalAnswerer(nano, "nano", batch_size), folder)
    return lines_of(folder)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_answers_together_are_those_one_by_one(nano, questions, tmp_path, num_beams):
    asking, items = prepared(questions, num_beams=num_beams, max_new_tokens=8)
    together = answered(nano, asking, items, tmp_path / "5", 5)
    assert together == answered(nano, asking, items, tmp_path / "1", 1)
    item = next(iter(items))
    expected = nano.ask(
        f"{item.question}",
        item.pictures,
        sampling=False,
        num_beams=num_beams,
        repetition_penalty=1.2,
        max_new_tokens=8,
    )
    assert together[0]["answer"] == expected.text
    assert together[0]["tokens"] == expected.num_output_tokens


def test_a_broken_picture_fails_and_the_others_are_answered(nano, questions, tmp_path):
    for num_beams in (1, 2):
        asking, items = prepared(questions, limit=3, num_beams=num_beams, max_new_tokens=4)
        broken = replace(next(iter(items)), id="broken", pictures=(b"\x89PNG no picture",))
        folder = tmp_path / str(num_beams)
        answerer = LocalAnswerer(nano, "nano", 4)
        outcome = ask(asking, [broken, *items], answerer, folder)
        assert list(outcome.failures) == ["broken"]
        assert len(outcome.answers) == 3


def test_a_batch_that_has_no_room_is_answered_one_by_one(nano, questions, tmp_path, monkeypatch):
    asking, items = prepared(questions, limit=4, num_beams=2, max_new_tokens=4)
    expected = answered(nano, asking, items, tmp_path / "there", 2)
    answer_all = nano.engine.answer_all

    def short_of_memory(conversations, settings):
        if len(conversations) > 1:
            raise RuntimeError("CUDA out of memory")
        return answer_all(conversations, settings)

    monkeypatch.setattr(nano.engine, "answer_all", short_of_memory)
    assert answered(nano, asking, items, tmp_path / "here", 2) == expected


def test_an_empty_question_fails_alone(nano, questions, tmp_path):
    asking, items = prepared(questions, limit=2, num_beams=1, max_new_tokens=4)
    blank = Item("blank", " ")
    outcome = ask(asking, [blank, *items], LocalAnswerer(nano, "nano", 2), tmp_path / "run")
    assert list(outcome.failures) == ["blank"]
    assert "empty" in outcome.failures["blank"]


def test_enlarged_pictures_are_the_same_in_every_order(nano, questions, tmp_path):
    asking, items = prepared(questions, limit=3, upsize=True, num_beams=1, max_new_tokens=4)
    there = answered(nano, asking, items, tmp_path / "there", 2)
    back = answered(nano, asking, list(items)[::-1], tmp_path / "back", 2)
    assert there == back[::-1]


def test_the_format_of_quantised_weights_is_known():
    with load("nano", "cpu", "float32", quantize="int8") as chat:
        model = LocalAnswerer(chat, "nano").model
    assert model.quantized == "int8"
    assert model.settings()["quantized"] == "int8"


def test_solved_examples_are_shown_to_the_model_and_kept_with_the_run(questions, tmp_path):
    whole = prepared(questions)[1]
    asking, items = prepared(questions, limit=2, shots=2, shots_from=lambda: whole)
    ask(asking, items, Echo(), tmp_path / "run")
    assert len(Run(tmp_path / "run").settings["shots"]) == 6
    for item in items:
        blocks = asking.conversation(item)[-1]["content"]
        assert sum(block["type"] == "image" for block in blocks) == 3
        assert item.question in blocks[-1]["text"]
        assert item.question not in "".join(block.get("text", "") for block in blocks[:-1])
