"""Folders of runs that somebody else wrote in, servers of other models, and what servers say."""

import json

import pytest

from minicpmv.batch.evaluation import ServerAnswerer, _reply
from minicpmv.cli import main
from minicpmv.evaluate.answering import release_of
from minicpmv.evaluate.journal import Answered, Run, RunJournal
from minicpmv.evaluate.judges import Judgements

from ..helpers.judge_server import JudgeServer


def response(body, status=200):
    return {"response": {"status_code": status, "body": body}, "error": None}


def said(content, **more):
    return response({"choices": [{"message": {"content": content}}], **more})


@pytest.mark.parametrize(
    "line",
    [
        {"id": ["1"], "prompt": "p", "answer": "A"},
        {"id": 1, "prompt": "p", "answer": "A"},
        {"id": "1", "prompt": "p", "answer": 5},
        {"id": "1", "prompt": None, "answer": "A"},
        {"id": "1", "prompt": "p", "answer": None, "error": 3},
        {"id": "1", "prompt": "p"},
        ["1"],
    ],
)
def test_a_line_of_other_kinds_is_named(tmp_path, line):
    with RunJournal(tmp_path, {"page": "p"}, {}) as journal:
        journal.add(Answered("0", "p", "B"))
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"line 2 is no answer of an evaluation"):
        Run(tmp_path)


def test_empty_lines_are_no_answers(tmp_path):
    with RunJournal(tmp_path, {"page": "p"}, {}) as journal:
        journal.add(Answered("0", "p", "B"))
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write("\n")
    with RunJournal(tmp_path, {"page": "p"}, {}) as journal:
        journal.add(Answered("1", "p", "C"))
    assert [*Run(tmp_path).answers] == ["0", "1"]


def test_texts_and_parts_of_texts_are_answers():
    assert _reply(said(" A "), False).text == "A"
    assert _reply(said([{"type": "text", "text": "A"}]), False).text == "A"
    assert _reply(said(None), False).text == ""


@pytest.mark.parametrize("content", [5, {"text": "A"}, [5], [{"type": "image_url"}]])
def test_what_is_no_text_is_no_answer(content):
    reply = _reply(said(content), False)
    assert reply.text is None
    assert "the server sent" in reply.error


@pytest.mark.parametrize("usage", [{"completion_tokens": "x"}, {"completion_tokens": None}, [], 3])
def test_an_answer_is_kept_whatever_is_said_of_its_length(usage):
    assert _reply(said("A", usage=usage), False) == _reply(said("A"), False)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "too large", "code": 400},  # vLLM
        {"error": {"message": "too large"}},
        {"error": "too large"},
    ],
)
def test_the_words_of_an_error_are_kept(body):
    assert _reply(response(body, 400), True).error == "status 400: too large"


def test_servers_of_other_models_are_not_mixed():
    with JudgeServer([], "one").running() as first, JudgeServer([], "other").running() as second:
        with pytest.raises(ValueError, match=rf"{second} has no model 'one'; it has other"):
            ServerAnswerer([first, second])
        with pytest.raises(ValueError, match=rf"{first} has no model 'other'"):
            ServerAnswerer([first, second], "other")
        assert ServerAnswerer([first, "http://127.0.0.1:9"]).model.name == "one"


@pytest.mark.parametrize("penalty", ["0", "-1", "nan", "inf"])
def test_a_penalty_that_is_none_is_typed_wrongly(capsys, penalty):
    assert main(["evaluate", "mme", f"--repetition-penalty={penalty}"]) == 2
    assert "it must be a number above 0" in capsys.readouterr().err


def test_an_empty_line_is_no_judgement(tmp_path):
    file = tmp_path / "judgements.jsonl"
    line = {"key": "k", "judge": "j", "text": "A", "why": "", "tries": 1, "said": ""}
    file.write_text(f"{json.dumps(line)}\n\n{json.dumps(line)}\nhalf")
    Judgements(file).close()
    assert file.read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("MiniCPM-V", "1.0"),
        ("openbmb/MiniCPM-V-1.0", "1.0"),
        ("MiniCPM-V-2.0", "2.0"),
        ("MiniCPM-V-2-4bit", "2.0"),
        ("minicpm-v-2.6-Q4_K_M.gguf", "2.6"),
        ("MiniCPM-V-2_6-20241201", "2.6"),
        ("MiniCPM-V-2_8", ""),
        ("MiniCPM-V-4", ""),
        ("MiniCPM-V-4_5-gguf", ""),
        ("minicpm-v4.5", ""),
    ],
)
def test_a_model_of_another_version_has_not_the_card_of_an_older_one(name, release):
    assert release_of(name) == release


def write_run(folder, file, questions):
    """A run whose questions are those of a file."""
    rows = [{"question": question, "answer": "A"} for question in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"page": "mine", "page version": 1, "profile": "default", "data": "mine.jsonl"}
    about = {"task": str(file), "data": str(file), "metric": "exact-match"}
    with RunJournal(folder, settings, about) as journal:
        for number, question in enumerate(questions, 1):
            journal.add(Answered(str(number), question, "A"))


def test_runs_of_other_questions_are_not_compared(tmp_path, capsys):
    for name, questions in (("a", ("one", "two")), ("b", ("one", "three"))):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name / "run", tmp_path / name / "mine.jsonl", questions)
    runs = [str(tmp_path / name / "run") for name in ("a", "b")]
    assert main(["evaluate", "--compare", *runs]) == 1
    assert "1 of 2 items" in capsys.readouterr().err
    assert main(["evaluate", "--compare", runs[0], runs[0]]) == 0
