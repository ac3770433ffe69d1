"""`minicpmv evaluate` as it is typed."""

import json
import shutil

import pytest

import minicpmv
from minicpmv.cli import main
from minicpmv.evaluate.journal import Run
from minicpmv.loader import load

from ..helpers.evaluation import lines_of, write_questions
from ..helpers.judge_server import JudgeServer, Step, refused

WORDS = ("--metric", "exact-match", "--max-new-tokens", "6")


@pytest.fixture(scope="module")
def nano():
    with load("nano", "cpu", "float32") as chat:
        yield chat


@pytest.fixture
def mine(tmp_path, monkeypatch, nano):
    """A file of questions in the folder where one is; models are loaded already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minicpmv.loader, "load", lambda name, **options: nano)
    monkeypatch.setattr(nano, "close", lambda: None)
    return write_questions(tmp_path)


def evaluate(*words, code=0):
    assert main(["evaluate", *map(str, words)]) == code


def test_a_file_of_ones_own_is_asked_scored_and_gone_on_with(mine, capsys):
    evaluate(mine, *WORDS, "--limit", 5)
    out, err = capsys.readouterr()
    assert "| mine | exact-match | " in out
    assert " | 5 | 0 |" in out
    assert "mine: 5 answers in runs/evaluate/mine-nano" in err
    assert "the score is over the first 5 items (--limit)" in err
    folder = mine.parent / "runs" / "evaluate" / "mine-nano"
    first = lines_of(folder)
    evaluate(mine, *WORDS, "--json", "--html")
    found = json.loads(capsys.readouterr().out)
    assert lines_of(folder)[:5] == first
    (benchmark,) = found["benchmarks"]
    assert (benchmark["page"], benchmark["items"], benchmark["answered"]) == ("mine", 8, 8)
    assert found["model"]["name"] == "nano"
    assert "circle 3" in (folder / "report.html").read_text(encoding="utf-8")
    assert Run(folder).scores()["rules"] == "vlmevalkit-fork"


def test_other_settings_are_refused_and_other_rules_score_again(mine, capsys):
    evaluate(mine, *WORDS, "--out", "run")
    evaluate(mine, *WORDS, "--out", "run", "--beams", 2, code=1)
    message = "run holds answers with asked.default.num_beams 1, and this run has 2. Give another"
    assert message in capsys.readouterr().err
    evaluate("--rescore", "run", "--rules", "lmms-eval", "--card", "--html")
    out, err = capsys.readouterr()
    assert "| mine | exact-match |" in out
    assert "mine: the card of nano has no score." in out
    assert "otherwise than published: rules: lmms-eval" in out
    assert "run/report.html: 8 answers" in err


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (refused(401, "Bad key."), "takes no requests from us: status 401, Bad key. Check the"),
        (refused(404, "No model 'x'."), "status 404, No model 'x'. Check the address (--judge)"),
    ],
)
def test_a_judge_that_refuses_is_told_before_a_model_is_loaded(
    mine, capsys, monkeypatch, step, message
):
    evaluate(mine, *WORDS, "--out", "run", "--limit", 2)
    before = (mine.parent / "run" / "answers.jsonl").read_bytes()
    monkeypatch.setattr(minicpmv.loader, "load", lambda *words, **options: pytest.fail("loaded"))
    capsys.readouterr()
    with JudgeServer([step]).running() as url:
        judge = ("--judge", url, "--judge-model", "x")
        evaluate(mine, *WORDS, "--out", "run", *judge, code=1)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert (mine.parent / "run" / "answers.jsonl").read_bytes() == before


def test_a_judge_that_shows_no_models_judges(mine, capsys):
    server = JudgeServer([Step("Z")])
    server.models = refused(404, "No such route.")
    with server.running() as url:
        evaluate(mine, *WORDS, "--limit", 2, "--judge", url, "--judge-model", "x")
    assert server.asked[0]["messages"][0]["content"] == "Say yes."
    assert "| mine | exact-match | " in capsys.readouterr().out


def test_two_runs_are_compared_item_by_item(mine, capsys):
    evaluate(mine, *WORDS, "--out", "a")
    shutil.copytree("a", "b")
    lines = lines_of(mine.parent / "b")
    lines[0]["answer"] = "purple, surely"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (mine.parent / "b" / "answers.jsonl").write_text(text)
    capsys.readouterr()
    evaluate("--compare", "a", "b")
    assert "only B right       0" in capsys.readouterr().out
    evaluate("--compare", "a", "b", "--json")
    assert json.loads(capsys.readouterr().out)["only_second"] == 0


def test_a_run_is_scored_by_another_metric_and_never_compared_with_that(mine, capsys):
    evaluate(mine, *WORDS, "--out", "a", "--limit", 2)
    evaluate(mine, *WORDS[2:], "--metric", "contains", "--out", "b", "--limit", 2)
    capsys.readouterr()
    evaluate("--compare", "a", "b", code=1)
    assert "a by exact-match and b by contains: these scores" in capsys.readouterr().err
    evaluate("--compare", "a", "b", "--metric", "contains")
    assert "both right" in capsys.readouterr().out
    evaluate("--rescore", "a", "--metric", "contains")
    assert "| mine | contains |" in capsys.readouterr().out


def test_all_benchmarks_are_listed_and_each_is_shown_as_it_is_asked(capsys):
    evaluate("--list")
    out = capsys.readouterr().out
    for name in ("ocrbench", "mmbench-en-v11-dev", "opencompass-8", "scenes/reading"):
        assert f"\n{name} " in f"\n{out}"
    evaluate("--show", "OCRBench", "--profile", "2.6-cot")
    out = capsys.readouterr().out
    assert "published for 2.6: 852 with 2.6-cot" in out
    assert "--- 2.6-cot: beams 3, repetition penalty 1.2, at most 2048 tokens" in out
    assert "<picture>" in out
    evaluate("--show", "mmbench-en-v11-dev", "-m", "openbmb/MiniCPM-Llama3-V-2_5")
    out = capsys.readouterr().out
    assert "--- 2.5: " in out
    assert "Please just indicate your choice." in out
    assert "--- 2.6" not in out
    evaluate("--show", "opencompass-8")
    assert "mean of ocrbench, divided by 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        ((), "name a TASK", 2),
        (
            ("ocrbenc",),
            "'ocrbenc' is not known. Close: ocrbench, ccbench. All: minicpmv evaluate --list.\n",
            1,
        ),
        (("xyzzy",), "'xyzzy' is not known. All: minicpmv evaluate --list.\n", 1),
        (("mine.jsonl",), "mine.jsonl is a file of your own: say how it is scored, --metric", 2),
        (("none.jsonl", "--metric", "anls"), "none.jsonl: there is no such file", 1),
        (("mine.jsonl", "--metric", "best"), "The metric 'best' is not known. Known:", 1),
        (("mine.jsonl", "--metric", "exactmatch"), "not known. Close: exact-match. Known: ", 1),
        (("ocrbench", "--metric", "anls"), "--metric is for a file of your own", 2),
        (("ocrbench", "--limit", "0"), "--limit is 0; it must be at least 1", 2),
        (("ocrbench", "--workers", "0"), "--workers is 0; it must be at least 1", 2),
        (("ocrbench", "--tasks", "reading"), "--tasks is for the task scenes; remove it", 2),
        (("ocrbench", "--blind"), "--blind is for the task scenes; remove it", 2),
        (("ocrbench", "--api-key", "k"), "--api-key has no effect without --base-url", 2),
        (("ocrbench", "--answer-timeout", "9"), "--answer-timeout has no effect without", 2),
        (
            ("ocrbench", "--base-url", "http://127.0.0.1:9", "--answer-timeout", "0"),
            "--answer-timeout is 0; it must be above 0",
            2,
        ),
        (("ocrbench", "--cot", "--profile", "2.6"), "remove --cot", 2),
        (
            ("ocrbench", "--base-url", "http://x", "--quantize", "int4"),
            "--quantize has no effect beside --base-url",
            2,
        ),
        (("ocrbench", "--list"), "'ocrbench' has no effect beside --list", 2),
        (
            ("scenes/nothing",),
            "scenes has no part 'nothing'. Close: counting. Known: yes-no, open",
            2,
        ),
        (("scenes", "--workers", "2"), "scenes are asked of a model in this process", 2),
        (("scenes", "ocrbench", "--json"), "--json is for scenes or for benchmarks", 2),
        (("--rescore", "nothing"), "nothing is no run of minicpmv evaluate: no such folder", 1),
        (("mine.jsonl", *WORDS, "--judge-model", "x"), "--judge-model would have no effect", 2),
        (("mine.jsonl", *WORDS, "--profile", "9"), "mine has no profile '9'; it has", 1),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_what_was_typed_wrongly_is_one_line(mine, capsys, words, message, code):
    evaluate(*words, code=code)
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_data_that_is_nowhere_is_named_before_a_model_is_loaded(mine, monkeypatch, capsys):
    monkeypatch.setenv("LMUData", "nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(minicpmv.loader, "load", None)
    evaluate("ocrbench", code=1)
    assert "OCRBench.tsv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("scenes/word", "scenes/counting"), ["counting", "word"]),
        (("scenes", "--tasks", "counting"), ["counting"]),
        (("scenes/word", "--tasks", "counting"), ["counting", "word"]),
        (("scenes", "scenes/word", "--tasks", "counting"), ["counting", "word"]),
    ],
)
def test_drawn_pictures_are_tasks_among_others(mine, capsys, words, parts):
    evaluate(*words, "--items", 1, "--json")
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert sorted({row["part"] for row in scores}) == parts


def test_when_nothing_could_be_answered_there_is_no_score(mine, capsys):
    for file in mine.parent.glob("*.png"):
        file.write_bytes(b"\x89PNG no picture")
    evaluate(mine, *WORDS, code=1)
    assert capsys.readouterr().out == ""
