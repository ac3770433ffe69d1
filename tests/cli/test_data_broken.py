"""`minicpmv data check` on broken files: exit code 1, and each fault with its row and field."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ..helpers.broken_rows import BROKEN

Run = Callable[..., tuple[int, str, str]]
FORMATS = sorted({name for name, *_ in BROKEN})
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
}
GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.mark.parametrize("name", FORMATS)
def test_every_broken_row_is_told(run: Run, tmp_path: Path, name: str) -> None:
    """All that a format can have wrong, in one file: no fault hides another."""
    file = tmp_path / "rows.jsonl"
    broken = [(row, field, kind) for format, row, field, kind in BROKEN if format == name]
    file.write_text("".join(json.dumps(row) + "\n" for row, *_ in broken))
    if name == "llama-factory":
        entry = {"file_name": file.name, "formatting": "sharegpt", "tags": TAGS}
        columns = {"messages": "messages", "images": "images"}
        info = {"rows": entry | {"columns": columns}}
        (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    code, out, err = run("data", "check", file, "--format", name, "--json")
    assert (code, err) == (1, "")
    report = json.loads(out)
    found = [(fault["field"], fault["kind"]) for fault in report["all_faults"]]
    rows = [fault["row"] for fault in report["all_faults"]]
    assert rows == list(range(len(broken)))
    if name == "llama-factory":  # no column of the file is in it
        broken[0] = (*broken[0][:2], "not_a_row")
    assert found == [(field, kind) for _, field, kind in broken]


FILES = [
    (b"", "is empty"),
    (b"  \n\n", "is empty"),
    (b"[]", "holds no rows"),
    (b"{}", "no known format"),
    (b"null", "no known format"),
    (b"17\n18\n", "no known format"),
    (b"hello\n", "no known format"),
    (b"a,b\n1,2\n", "no known format"),
    (b"\xff\xfe[\x00]\x00", "UTF-16"),
    (b"\x89PNG\r\n\x1a\n", "no known format"),
    (b"PAR1", "no parquet file"),
    (b'{"messages": [{"role"', "row 0"),
    (b"[{'messages': []}]", "double quotes"),
    (b'[{"messages": [],}]', "no comma before a closing bracket"),
    (b'{"question": "q"}', "no known format"),
]


@pytest.mark.parametrize(("content", "expected"), FILES)
def test_a_file_without_rows(run: Run, tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    code, _, err = run("data", "check", file)
    assert code == 1
    assert expected in err
    assert len(err.splitlines()) == 1


GOOD_LINE = json.dumps(GOOD).encode() + b"\n"


@pytest.mark.parametrize(
    "line",
    [b"{", b"}", b"[1]", b"null", b"'q'", b'{"messages": "\xff"}', b"{}", b'{"x": 1}', b"NaN",
     b'{"messages": [], "messages": []}', GOOD_LINE.strip() * 2, GOOD_LINE.strip()[:-1],
     b'{"messages": None}', b"[" * 5000],
)  # fmt: skip
def test_a_broken_line_leaves_the_others(run: Run, tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD_LINE * 2 + line + b"\n" + GOOD_LINE)
    code, out, err = run("data", "check", file, "--json")
    report = json.loads(out)
    assert (code, err) == (1, "")
    assert (report["rows"], report["good_rows"]) == (4, 3)
    assert [fault["row"] for fault in report["all_faults"]] == [2]


def test_broken_pictures(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (500, 300), "red").save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    for name, content in (
        ("cut.png", whole[:60]),
        ("head.png", whole[:8]),
        ("text.png", b"hello"),
        ("empty.png", b""),
        ("damaged.png", whole[:50] + b"\0" * 40 + whole[90:]),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    names = ["cut", "head", "text", "empty", "damaged", "folder", "none"]
    talk = [
        {"role": "user", "content": "<image>\nWhat is it?"},
        {"role": "assistant", "content": "Red."},
    ]
    rows = [{"image": f"{name}.png", "conversations": talk} for name in [*names, "good"]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    code, out, _ = run("data", "check", tmp_path / "rows.json", "--json")
    faults = json.loads(out)["all_faults"]
    assert code == 1
    assert [fault["row"] for fault in faults] == list(range(7))
    assert {fault["field"] for fault in faults} == {"image"}
    assert [fault["kind"] for fault in faults] == ["unreadable_picture"] * 6 + ["missing_picture"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Peak of the process in bytes, for 1,000 rows and for 100,000."""
    peaks = []
    for count in (1_000, 100_000):
        file = tmp_path / f"{count}.jsonl"
        file.write_bytes(GOOD_LINE * count)
        code = (
            "import resource, sys; from minicpmv.cli import main; main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
        )
        words = ["data", "check", str(file)]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[1].split() == ["rows", str(count)]
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 100 << 20
