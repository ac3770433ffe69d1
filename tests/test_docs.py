"""What README and docs say is run, parsed or computed again.

Run as a script, this file writes the `--help` blocks of docs/cli.md anew.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.cli import COMMANDS, main, parse
from minicpmv.cli.slice import Settings, plan_cost
from minicpmv.versions import RELEASES

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
CHECKPOINTS = {
    "openbmb/MiniCPM-Llama3-V-2_5": GOLDEN / "minicpm-llama3-v-2_5" / "checkpoint",
    "openbmb/MiniCPM-V-2_6": GOLDEN / "minicpm-v-2_6" / "checkpoint",
}


def blocks(page, language):
    """Contents of a page's fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def cases(language):
    return [
        pytest.param(block, id=f"{page.name}-{i}")
        for page in PAGES
        for i, block in enumerate(blocks(page, language))
    ]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the pictures that the examples name."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("street.jpg", "before.png", "after.png", "cat.png", "dog.png", "new.png"):
        Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 30).convert("RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_copy(checkpoint, folder):
    """The tiny checkpoint in place of a released one, with short answers."""
    shutil.copytree(checkpoint, folder, copy_function=shutil.copyfile)
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_new_tokens": 4}))
    return folder


@pytest.mark.parametrize("block", cases("python"))
def test_python_blocks_run(block, workplace):
    for name, checkpoint in CHECKPOINTS.items():
        if name in block:
            folder = small_copy(checkpoint, workplace / name.replace("/", "-"))
            block = block.replace(name, str(folder))
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block, "block", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", cases("bash"))
def test_command_lines_are_ones_we_know(block):
    for line in block.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|\|(?!\|)|;", line):
            words = shlex.split(command, comments=True)
            if words[:1] == ["minicpmv"]:
                parse([word for word in words[1:] if word != "<"], argparse.Namespace())


def test_relative_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_both_readmes_show_the_same_code():
    english, chinese = ROOT / "README.md", ROOT / "README_zh.md"
    for language in ("bash", "python"):
        plain = [re.sub(r"\s*#.*", "", block) for block in blocks(english, language)]
        assert plain == [re.sub(r"\s*#.*", "", block) for block in blocks(chinese, language)]


def test_readme_marks_the_two_commands():
    for page in (ROOT / "README.md", ROOT / "README_zh.md"):
        marked = re.findall(r"<!-- ci: (\w+) -->\n+```bash\n(.*?)\n```", page.read_text("utf-8"))
        assert [name for name, _ in marked] == ["demo", "tests"]
        assert all("\n" not in command for _, command in marked)


def test_the_demo_answers_as_the_readmes_say(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for page in (ROOT / "README.md", ROOT / "README_zh.md"):
        command = blocks(page, "bash")[0].split("&& ")[1]
        assert main(shlex.split(command)[1:]) == 0
        answer = capsys.readouterr().out.strip()
        assert re.search(f'["“]{re.escape(answer)}["”]', page.read_text(encoding="utf-8"))


def help_of(*arguments):
    """What `minicpmv ... --help` prints in a terminal of 100 columns."""
    output, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main([*arguments, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return output.getvalue()


def with_help(page):
    """The page with what each `$ minicpmv ... --help` prints under it."""

    def fill(match):
        return f"```text\n$ {match[1]}\n{help_of(*match[1].split()[1:-1])}```"

    return re.sub(r"```text\n\$ (minicpmv[^\n]* --help)\n.*?```", fill, page, flags=re.DOTALL)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse lays the flags out differently")
def test_help_in_the_documents_is_the_real_one():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert with_help(page) == page
    assert all(f"$ minicpmv {name} --help" in page for name in COMMANDS)


def rows_under(heading):
    """Cells of the first table under a heading of docs/releases.md, without its head."""
    page = (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_tokens_per_picture():
    rows = rows_under("Tokens per picture")
    assert len(rows) > 5
    for size, grid, num_slices, *tokens in rows:
        height, width = map(int, size.split(" x "))
        for release, num_queries, (visual, with_tags) in (
            (RELEASES["2.5"], 96, tokens[:2]),
            (RELEASES["2.6"], 64, tokens[2:]),
        ):
            settings = Settings(
                max_slice_nums=9,
                scale_resolution=448,
                patch_size=14,
                num_queries=num_queries,
                slice_mode=True,
                use_image_id=release.use_image_id,
                tag_every_slice=release.slice_tags == "cell",
            )
            cost = plan_cost(height, width, 9, settings)
            assert grid == ("-" if cost.plan.grid is None else "{} x {}".format(*cost.plan.grid))
            assert int(num_slices) == cost.plan.num_slices
            assert (int(visual), int(with_tags)) == (cost.num_visual_tokens, cost.num_tokens)


SHAPES = {
    "2.5": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "query_num": 96,
    },
    "2.6": {
        "vocab_size": 151666,
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "query_num": 64,
    },
}


NANO = ROOT / "minicpmv" / "nano"


@pytest.mark.parametrize(("column", "version"), [(1, "2.5"), (2, "2.6"), (3, "nano")])
def test_parameters_and_memory(column, version):
    from minicpmv.cli.info import count_parameters, parameter_shapes
    from minicpmv.model.configuration import MiniCPMVConfig

    if version == "nano":
        shape = json.loads((NANO / "config.json").read_text())
    else:
        shape = SHAPES[version] | {"model_type": "minicpmv", "version": version}
        shape["drop_vision_last_layer"] = False
    sizes = count_parameters(parameter_shapes(MiniCPMVConfig.from_dict(shape)))
    total = sum(sizes.values())
    head_dim = shape["hidden_size"] // shape["num_attention_heads"]
    cache = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head_dim * 2

    said = {row[0]: row[column] for row in rows_under("Parts") + rows_under("Memory")}
    for part, count in sizes.items():
        assert said[f"parameters of the {part}"] == f"{count:,}"
    assert said["parameters in all"] == f"{total:,}"
    assert said["weights, float16 or bfloat16"] == f"{2 * total / 1e9:.2f} GB"
    assert said["weights, float32"] == f"{4 * total / 1e9:.2f} GB"
    assert said["cache per 1000 tokens, 16 bit"] == f"{1000 * cache / 1e9:.3f} GB"


def test_scores_in_the_readmes_are_those_of_the_card():
    card = (NANO / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "README.md", ROOT / "README_zh.md"):
        text = " ".join(page.read_text(encoding="utf-8").split())
        for task in ("colour", "shape", "existence", "counting"):
            score = re.search(rf"^\| {task} \| ([\d.]+)%", card, flags=re.MULTILINE)[1]
            assert f"{score} %" in text


if __name__ == "__main__":
    cli_page = ROOT / "docs" / "cli.md"
    cli_page.write_text(with_help(cli_page.read_text(encoding="utf-8")), encoding="utf-8")
