"""`minicpmv data`: what would be trained on stdout, faults on stderr, and the exit code."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ..helpers.golden import CHECKPOINTS

Run = Callable[..., tuple[int, str, str]]


def turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


GOOD = [
    {
        "image": "a.png",
        "conversations": turn("<image>\nWhat is it?", "Red.") + turn("Sure?", "Yes."),
    },
    {"conversations": turn("Hi", "Hello.")},
]
BAD = [
    {"image": "none.png", "conversations": turn("<image>\nWhat?", "A.")},
    {"image": "a.png", "conversations": turn("<image>\nWhat?", " ")},
]


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    def write(*found: object) -> Path:
        Image.new("RGB", (300, 200), "red").save(tmp_path / "a.png")
        file = tmp_path / "rows.json"
        file.write_text(json.dumps(found))
        return file

    return write


def test_a_good_file(run: Run, rows: Callable[..., Path]) -> None:
    file = rows(*GOOD)
    code, out, err = run("data", "check", file)
    assert (code, err) == (0, "")
    first, *lines = out.splitlines()
    assert first == f"{file}: official, for nano"
    found = {line[:18].strip(): line[18:] for line in lines}
    assert found["rows"] == "2"
    assert found["conversations"] == "2 (answers: 1 with 1, 1 with 2)"
    assert found["pictures"] == "1 (1 distinct)"
    assert found["trained tokens"].startswith("10 ("), "Red . end, Yes . end, Hel lo . end"


def test_faults_are_told_with_their_rows(run: Run, rows: Callable[..., Path]) -> None:
    file = rows(GOOD[1], *BAD)
    code, out, err = run("data", "check", file)
    assert code == 1
    missing, empty = err.splitlines()
    assert missing.startswith("row 1, image: ")
    assert "none.png" in missing
    assert empty.startswith("row 2, conversations[1].content: the answer is empty")
    assert "2 (missing_picture 1, empty_answer 1)" in out


def test_only_some_of_many_faults_are_printed(run: Run, rows: Callable[..., Path]) -> None:
    file = rows(GOOD[1], *[BAD[1]] * 25)
    _, _, err = run("data", "check", file)
    assert len(err.splitlines()) == 21
    assert err.endswith("... and 5 more faults; --json lists all\n")
    _, _, err = run("data", "check", file, "--limit-faults", 2)
    assert [line[:6] for line in err.splitlines()] == ["row 1,", "row 2,", "... an"]
    assert "and 23 more" in err
    code, out, err = run("data", "check", file, "--json")
    assert (code, err) == (1, "")
    report = json.loads(out)
    assert (report["rows"], report["good_rows"], report["model"]) == (26, 1, "nano")
    assert [fault["row"] for fault in report["all_faults"]] == list(range(1, 26))


def test_a_file_of_faults_alone(run: Run, rows: Callable[..., Path]) -> None:
    code, out, _ = run("data", "check", rows(BAD[1]))
    assert code == 1
    assert "longest" not in out, "there is none"


def test_rows_of_training_are_counted(run: Run, rows: Callable[..., Path]) -> None:
    """Short conversations share them, as in the plan of the training."""
    file = rows(*[GOOD[1]] * 40)
    report = json.loads(run("data", "check", file, "--max-length", 100, "--json")[1])
    length = report["longest_tokens"]
    assert report["packed_rows"] == -(-40 // (100 // length))
    found = run("data", "check", file, "--max-length", 100)[1]
    assert f"packed into 100  {report['packed_rows']} rows" in found.splitlines()[-1]
    assert "packed" not in run("data", "check", file, "--max-length", 0)[1]


def test_the_model_of_an_adapter(run: Run, rows: Callable[..., Path], tmp_path: Path) -> None:
    """Its base encodes the rows, with the cut of pictures that it was trained with."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, held in (
        ("adapter_config.json", {"base_model_name_or_path": "nano"}),
        ("training_settings.json", {"max_slice_nums": 1}),
    ):
        (folder / name).write_text(json.dumps(held))
    (folder / "adapter_model.safetensors").touch()  # weights are not read
    file = rows(*GOOD)
    found = [
        json.loads(run("data", "check", file, "--json", "--model", model)[1])["slices"]
        for model in (folder, "nano")
    ]
    assert found == [1, 3]


def test_a_row_token_by_token(run: Run, rows: Callable[..., Path]) -> None:
    code, out, _ = run("data", "check", rows(*GOOD), "--show", 0)
    assert code == 0
    marked = [line.split(maxsplit=3)[3] for line in out.splitlines() if line.startswith("*")]
    assert marked[-1] == "'<|im_end|>'"
    assert "".join(word.strip("'") for word in marked) == "Red.<|im_end|>Yes.<|im_end|>"
    assert out.count("100 visual tokens") == 3, "the overview and two cells"


def test_a_terminator_that_only_is_a_target(run: Run, rows: Callable[..., Path]) -> None:
    """1.0's template goes on after an answer without one."""
    model = CHECKPOINTS["1.0"]
    _, out, _ = run("data", "check", rows(*GOOD), "--model", model, "--show", 0)
    (line,) = [line for line in out.splitlines() if line.startswith("+")]
    assert line.endswith("'</s>'")


def test_broken_rows_are_shown_as_faults(run: Run, rows: Callable[..., Path]) -> None:
    code, out, err = run("data", "check", rows(*BAD), "--show", 1)
    assert (code, out) == (1, "")
    assert err == (
        "minicpmv: row 1, conversations[1].content: the answer is empty; give some text, or take "
        "the message out\n"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--show", "2"], "rows.json has 2 rows"),
        (["--show", "-1"], "counted from 0"),
        (["--show", "0", "--json"], "leave out --json"),
        (["--max-length", "-1"], "at least 0"),
        (["--max-slice-nums", "0"], "at least 1"),
        (["--max-length", "0", "--cut-long"], "no effect"),
        (["--limit-faults", "-1"], "at least 0"),
        (["--fps", "0"], "above 0"),
        (["--fps", "nan"], "above 0"),
        (["--fps", "1", "--num-frames", "2"], "give one of them"),
    ],
)
def test_wrong_words(run: Run, rows: Callable[..., Path], words: list[str], expected: str) -> None:
    code, out, err = run("data", "check", rows(*GOOD), *words)
    assert (code, out) == (2, "")
    assert expected in err


def test_addresses_are_opened_when_allowed(run: Run, rows: Callable[..., Path]) -> None:
    file = rows({"image": "http://127.0.0.1:9/a.png", "conversations": turn("<image>\nA?", "B.")})
    code, _, err = run("data", "check", file)
    assert code == 1
    assert "http" in err
    assert "unreadable" in run("data", "check", file, "--allow-urls")[1], "nobody listens there"


def test_rows_are_converted(run: Run, rows: Callable[..., Path], tmp_path: Path) -> None:
    file, out = rows(*GOOD), tmp_path / "out.jsonl"
    code, said, err = run("data", "convert", file, out, "--to", "swift")
    assert (code, err) == (0, "")
    assert said == f"{out}: 2 rows, official to swift\n"
    first = json.loads(out.read_text().splitlines()[0])
    assert first["images"] == ["a.png"]
    assert (
        run("data", "check", out)[1].splitlines()[1:]
        == (run("data", "check", file)[1].splitlines()[1:])
    )
    code, _, err = run("data", "convert", file, out, "--to", "swift")
    assert (code, err.count("\n")) == (1, 1) or code == 2
    assert run("data", "convert", file, out, "--to", "swift", "--overwrite")[0] == 0


def test_nothing_is_converted_where_a_row_is_broken(
    run: Run, rows: Callable[..., Path], tmp_path: Path
) -> None:
    code, _, err = run("data", "convert", rows(*BAD), tmp_path / "out.jsonl", "--to", "swift")
    assert (code, err.count("\n")) == (1, 1)
    assert "row 1" in err
    assert not (tmp_path / "out.jsonl").exists()
