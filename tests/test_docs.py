"""What README and docs say is run, parsed or computed again.

`python -m tests.test_docs` writes the `--help` blocks of docs/cli.md anew.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.cli import COMMANDS, main, parse
from minicpmv.cli.options import generation_options
from minicpmv.loader import load

from .helpers.clips import clip
from .helpers.quantized import int4_release
from .helpers.text_models import in_llama_format

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
NANO = ROOT / "minicpmv" / "nano"
CHECKPOINTS = {
    "openbmb/MiniCPM-V": GOLDEN / "minicpm-v-1_0" / "checkpoint",
    "openbmb/MiniCPM-V-2": GOLDEN / "minicpm-v-2" / "checkpoint",
    "openbmb/MiniCPM-Llama3-V-2_5": GOLDEN / "minicpm-llama3-v-2_5" / "checkpoint",
    "openbmb/MiniCPM-V-2_6": GOLDEN / "minicpm-v-2_6" / "checkpoint",
    "openbmb/OmniLMM-12B": GOLDEN / "omnilmm-12b" / "checkpoint",
    "openbmb/MiniCPM-2B-dpo-bf16": GOLDEN / "minicpm-2b" / "ckpt",
    "openbmb/MiniCPM-2B-dpo-fp16": GOLDEN / "minicpm-2b" / "ckpt",
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
    (tmp_path / "clip.mp4").write_bytes(clip())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_copy(checkpoint, folder):
    """The tiny checkpoint in place of a released one, with short answers."""
    shutil.copytree(checkpoint, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    settings = folder / "generation_config.json"
    fields = json.loads(settings.read_text()) if settings.exists() else {}
    settings.write_text(json.dumps(fields | {"max_new_tokens": 4}))
    return folder


@pytest.mark.parametrize("block", cases("python"))
def test_python_blocks_run(block, workplace):
    # Made here, since they cannot be kept small in the repository.
    made = {
        "openbmb/MiniCPM-V-2_6-int4": lambda folder: int4_release("2.6", folder),
        "openbmb/MiniCPM-2B-sft-bf16-llama-format": lambda folder: in_llama_format(
            "minicpm-2b", folder
        ),
    }
    for name in [*CHECKPOINTS, *made]:
        if f'"{name}"' in block:
            folder = workplace / name.replace("/", "-")
            checkpoint = CHECKPOINTS.get(name) or made[name](workplace / "made")
            block = block.replace(f'"{name}"', repr(str(small_copy(checkpoint, folder))))
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block, "block", "exec"), {"__name__": "__main__"})


@pytest.fixture(scope="module")
def nano():
    return load("nano", "cpu", "float32")


@pytest.mark.parametrize(
    ("index", "folder"),
    [("README.md", "docs/"), ("README_zh.md", "docs/"), ("docs/README.md", ""), ("mkdocs.yml", "")],
)
def test_every_page_is_in_the_lists_of_pages(index, folder):
    text = (ROOT / index).read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    ends = "\n" if index.endswith(".yml") else ")"
    assert {page for page in pages if f"{folder}{page}{ends}" not in text} == set()


@pytest.mark.parametrize("block", cases("bash"))
def test_command_lines_are_ones_we_know(block, nano):
    for line in block.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|\|(?!\|)|;", line):
            words = shlex.split(command, comments=True)
            if words[:1] == ["minicpmv"]:
                args = argparse.Namespace()
                parse([word for word in words[1:] if word != "<"], args)
                if words[1] in ("ask", "chat") and args.model == "nano":
                    nano.check_options(generation_options(args))  # none without an effect


def test_relative_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_site_builds_with_every_link_and_the_api_reference(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert 'id="minicpmv.chat.Chat.ask"' in reference


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


def test_scores_in_the_readmes_are_those_of_the_card():
    card = (NANO / "README.md").read_text(encoding="utf-8")
    known = set(re.findall(r"\d+\.\d(?= ?%)", card))
    for page in (ROOT / "README.md", ROOT / "README_zh.md"):
        section = re.search(r"^## nano$.*?(?=^## )", page.read_text(), re.M | re.S)
        told = re.findall(r"\d+\.\d(?= ?%)", section[0])
        assert len(told) >= 4
        assert set(told) <= known, page.name


if __name__ == "__main__":
    cli_page = ROOT / "docs" / "cli.md"
    cli_page.write_text(with_help(cli_page.read_text(encoding="utf-8")), encoding="utf-8")
