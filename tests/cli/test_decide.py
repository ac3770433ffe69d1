"""`minicpmv ask --choices` and `minicpmv calibrate`, with nano."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.decisions import calibrate
from minicpmv.evaluate.decisions import draw_examples

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
ASKED = ("ask", "-m", "nano", "What colour is the star?", SCENE)


def test_choices_are_printed_by_their_probability(run):
    code, out, err = run(*ASKED, "--choices", "red,purple,blue")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][0] == "purple"
    values = [float(value) for _, value in lines]
    assert sorted(values, reverse=True) == values
    assert sum(values) == pytest.approx(1, abs=1e-3)


def test_json_and_kinds(run):
    code, out, _ = run("ask", "-m", "nano", "Is there a star?", SCENE, "--kind", "yesno", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["choice"], found["calibrated"], found["model"]) == ("yes", False, "nano")
    assert found["confidence"] <= found["probabilities"]["yes"]
    assert found["mass"] > 0.9
    arguments = ("--choices", 'low,"high, very"', "--kind", "score")
    code, out, err = run(*ASKED, *arguments)
    assert code == 0
    assert out.splitlines()[-1].startswith("score ")
    assert "high, very" in out
    assert "the model would answer otherwise" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--list-choices",), "--list-choices is for decisions: add --choices A,B,C"),
        (("--choices", "a"), "--choices has one label; expected two at least"),
        (("--choices", ""), "which is blank"),
        (
            ("--choices", '"a,b'),
            "which cannot be taken apart (unexpected end of data). Put",
        ),
        (("--choices", '"a"b,c'), "which cannot be taken apart"),
        (("--choices", "a\nb,c"), "which cannot be taken apart"),
        (("--choices", "a,b,"), "which is blank"),
        (("--choices", "a,b", "--seed", "1"), "--seed would have no effect on a decision"),
        (("--choices", "a,b", "--average-orders", "all"), "without --list-choices"),
    ],
)
def test_wrong_flags(run, flags, message):
    code, out, err = run(*ASKED, *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_calibration_is_made_and_used(run, tmp_path):
    out, plot, decided = (tmp_path / name for name in ("c.json", "c.png", "d.jsonl"))
    arguments = ("calibrate", "scenes", "-m", "nano", "--examples", "40", "--tasks", "counting")
    files = ("--out", out, "--plot", plot, "--decisions", decided)
    code, table, err = run(*arguments, *files)
    assert code == 0, err
    assert "| expected calibration error |" in table
    assert f"{out}: temperature" in table
    found = json.loads(out.read_text())
    assert (found["model"], found["num_fitted"], found["num_held_out"]) == ("nano", 20, 20)
    assert len(decided.read_text().splitlines()) == 40
    with Image.open(plot) as image:
        assert image.format == "PNG"
    first = out.read_text()
    code, printed, _ = run(*arguments, *files, "--json")
    assert json.loads(printed) == found
    assert out.read_text() == first
    plain = json.loads(run(*ASKED, "--choices", "purple,pink", "--json")[1])
    drawn, other = plot.read_bytes(), first.replace('"model": "nano"', '"model": "another"')
    for path, text, what in ((out, other, "calibration of 'nano'"), (plot, "x", "reliability")):
        kept = path.read_bytes()
        path.write_text(text)
        code, printed, err = run(*arguments, *files)
        assert (code, printed, path.read_text()) == (1, "", text)
        assert f"{str(path)!r} is there already, and is no {what}" in err
        assert "Replace it with --overwrite, or name another." in err
        path.write_bytes(kept)
    plot.write_text("x")
    assert run(*arguments, *files, "--overwrite")[0] == 0
    assert (out.read_text(), plot.read_bytes()) == (first, drawn)
    used = json.loads(run(*ASKED, "--choices", "purple,pink", "--json", "--calibration", out)[1])
    assert used["calibrated"]
    assert used["probabilities"]["purple"] != plain["probabilities"]["purple"]
    code, _, err = run(*ASKED, "--choices", "a,b", "--list-choices", "--calibration", out)
    assert code == 2
    assert "choices that are not listed" in err


def test_examples_of_a_file(run, tmp_path):
    lines = []
    for number, each in enumerate(draw_examples(40, tasks=["counting"])):
        name = f"{number}.png"
        each.images[0].save(tmp_path / name)
        line = {"question": each.question.text, "images": [name], "answer": each.answer}
        lines.append(json.dumps(line | {"choices": list(each.question.labels)}))
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    code, out, err = run("calibrate", data, "-m", "nano", "--out", tmp_path / "c.json")
    assert code == 0, err
    assert "20 examples held out" in out
    data.write_text("\n".join(lines[:30]))  # said before a model is looked for
    code, out, err = run("calibrate", data, "-m", "nowhere", "--out", tmp_path / "d.json")
    assert (code, out) == (1, "")
    assert "There are 30 examples; at least 40 are needed" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--out", "data.jsonl"), "--out 'data.jsonl' is a file that is read"),
        (("--out", "link.json"), "--out 'link.json' is a file that is read"),
        (("--out", "c.json", "--plot", "a.png"), "--plot 'a.png' is a file that is read"),
        (("--out", "c.json", "--decisions", "data.jsonl"), "--decisions 'data.jsonl' is a file"),
        (("--out", "c", "--decisions", "./c"), "--out and --decisions are both './c'"),
        (("--out", "c.png", "--plot", "c.png"), "--out and --plot are both 'c.png'"),
    ],
)
def test_nothing_that_is_read_is_written_over(run, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    line = {"question": "Q", "images": ["a.png"], "choices": ["a", "b"], "answer": "a"}
    text = f"{json.dumps(line)}\n"
    (tmp_path / "data.jsonl").write_text(text)
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "link.json").symlink_to("data.jsonl")
    code, out, err = run("calibrate", "data.jsonl", *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert (tmp_path / "data.jsonl").read_text() == text
    assert (tmp_path / "a.png").read_bytes() == b"picture"


def test_a_picture_that_is_not_there_is_named_before_a_model_is_looked_for(run, tmp_path):
    line = {"question": "Q", "choices": ["a", "b"], "answer": "a"}
    lines = [line | {"images": [name]} for name in ("data:,", "http://a/b.png", "nope.png")]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ("-m", "nowhere", "--out", tmp_path / "c.json")
    code, out, err = run("calibrate", tmp_path / "data.jsonl", *flags)
    assert (code, out) == (1, "")
    assert "data.jsonl, line 3: there is no file '" in err


def test_a_calibration_that_makes_it_worse_is_said(run, tmp_path, monkeypatch):
    real = calibrate.calibrate

    def worse(*words, **flags):
        report = real(*words, **flags)
        after = replace(report.calibration.before, nll=report.calibration.before.nll + 0.1)
        return replace(report, calibration=replace(report.calibration, after=after))

    monkeypatch.setattr(calibrate, "calibrate", worse)
    flags = ("scenes", "--examples", 40, "--tasks", "counting", "-m", "nano")
    code, _, err = run("calibrate", *flags, "--out", tmp_path / "c.json")
    assert (code, (tmp_path / "c.json").is_file()) == (0, True)
    assert "minicpmv: the calibration does not help" in err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("scenes", "--out", "c.json", "--held-out", "2"), 2, "--held-out is 2.0"),
        (("scenes", "--out", "c.json", "--tasks", "naming"), 2, "--tasks has 'naming'; known are"),
        (("scenes", "--out", "c.json", "--plot", "c.svg"), 2, "it must end in .png"),
        (("scenes", "--out", "nowhere/c.json"), 1, "there is no folder 'nowhere'"),
        (("data.jsonl", "--out", "c.json", "--examples", "3"), 2, "--examples is for scenes"),
        (("data.jsonl", "--out", "c.json"), 1, "data.jsonl: No such file"),
        (("scenes", "--out", "c.json", "--average-orders", "all"), 2, "without --list-choices"),
    ],
)
def test_what_cannot_be_calibrated(run, tmp_path, monkeypatch, flags, code, message):
    monkeypatch.chdir(tmp_path)
    found, out, err = run("calibrate", *flags)
    assert (found, out) == (code, "")
    assert message in err
