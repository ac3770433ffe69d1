"""Manners that all commands share: start-up, errors, exit codes."""

import subprocess
import sys

import pytest

import minicpmv
from minicpmv.cli import COMMANDS, main

HEAVY = ("torch", "transformers", "PIL", "numpy", "huggingface_hub")


def modules_after(code):
    """Which heavy modules a fresh Python holds after running the code."""
    report = f"{code}\nimport sys\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()


def help_of(*name):
    return (
        "import minicpmv.cli as c\n"
        f"try: raise RuntimeError(c.main([*{name!r}, '--help']))\n"
        "except SystemExit as error: assert not error.code"
    )


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "minicpmv", *arguments], capture_output=True, text=True, **options
    )


def test_importing_the_package_loads_nothing_heavy():
    assert modules_after("import minicpmv") == []


def test_help_loads_nothing_heavy():
    assert modules_after(help_of()) == []
    assert modules_after("import minicpmv.cli as c\nc.main([])") == []


@pytest.mark.parametrize("name", ["ask", "chat", "slice", "info", "bench", "serve"])
def test_help_of_a_command_loads_no_torch(name):
    assert modules_after(help_of(name)) == []


def test_python_dash_m_and_version():
    done = command("--version")
    assert done.returncode == 0
    assert done.stdout == f"minicpmv {minicpmv.__version__}\n"


def test_no_arguments_print_the_help(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert all(f"    {name} " in out for name in COMMANDS)


def test_unknown_command_names_the_closest(run):
    code, out, err = run("slcie", "a.png")
    assert (code, out) == (2, "")
    assert "unknown command 'slcie'. Did you mean 'slice'?" in err
    assert err.count("\n") == 1


def test_unknown_command_that_resembles_none_lists_them(run):
    code, _, err = run("xyzzy")
    assert code == 2
    assert "Known: ask, chat, serve" in err


def test_misspelt_flag_names_the_closest(run):
    code, _, err = run("ask", "What?", "--temprature", "0.5")
    assert code == 2
    assert "unknown argument --temprature. Did you mean --temperature?" in err


def test_flags_may_stand_between_the_files(run, fake_chat, picture):
    code, out, _ = run("ask", "What?", picture, "-m", "other", picture, "--seed", 3)
    assert code == 0
    assert "2 pictures" in out
    assert fake_chat.name == "other"


def test_error_is_one_line_and_exit_code_1(run, fake_chat):
    fake_chat.raises = ValueError("Sample 1 has\n2 placeholders.")
    code, out, err = run("ask", "What?")
    assert (code, out) == (1, "")
    assert err == "minicpmv: error: Sample 1 has 2 placeholders.\n"


def test_traceback_is_shown_when_asked_for(run, fake_chat):
    fake_chat.raises = ValueError("Two is not three.")
    for arguments in (["--traceback", "ask", "What?"], ["ask", "What?", "--traceback"]):
        code, _, err = run(*arguments)
        assert code == 1
        assert "Traceback (most recent call last)" in err
        assert err.endswith("minicpmv: error: Two is not three.\n")


def test_unexpected_error_is_one_line_with_a_hint(run, fake_chat):
    fake_chat.raises = KeyError("llm")
    code, _, err = run("ask", "What?")
    assert code == 1
    assert err == "minicpmv: error: unexpected KeyError: 'llm' (--traceback shows where)\n"


def test_ctrl_c_is_exit_code_130(run, fake_chat):
    fake_chat.raises = KeyboardInterrupt()
    code, out, err = run("ask", "What?")
    assert (code, out, err) == (130, "", "\n")


@pytest.mark.parametrize("name", ["ask", "info"])
def test_a_model_that_cannot_be_fetched_is_one_line(name, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    arguments = ["What?", "-m"] if name == "ask" else []
    code, out, err = run(name, *arguments, "somebody/something")
    assert (code, out) == (1, "")
    assert err.startswith("minicpmv: error: Model 'somebody/something' is not a local folder")
    assert err.count("\n") == 1


def test_an_unknown_flag_is_told_by_the_subcommand(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "preferences", "--threads", "2"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("minicpmv train preferences: error: unknown argument --threads")
    assert "Did you mean --threads" not in said
