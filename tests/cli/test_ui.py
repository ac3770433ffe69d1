"""`minicpmv ui`: flags become settings, and what cannot be meant is refused."""

import sys
import types

import pytest

from minicpmv.serve.ui import launch


@pytest.fixture
def opened(monkeypatch):
    """The settings of pages that would have been opened, and how."""
    found = []
    for package in ("gradio", "gradio.blocks", "streamlit"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    monkeypatch.setattr(launch, "run_page", lambda settings: found.append(("page", settings)))
    monkeypatch.setattr(
        launch, "run_streamlit", lambda settings: found.append(("streamlit", settings)) or 0
    )
    return found


def test_nano_on_this_computer_by_default(run, opened):
    code, out, err = run("ui")
    assert (code, out, err) == (0, "", "")
    assert opened == [("page", launch.PageSettings())]


def test_flags_become_settings(run, opened):
    flags = ["--port", 9001, "--server-port", 9002, "--api-key", "k", "--quantize", "int4"]
    assert run("ui", "a", "b", *flags, "--open", "--max-file-mb", 8)[0] == 0
    assert opened[0][1] == launch.PageSettings(
        ("a", "b"),
        port=9001,
        server_port=9002,
        api_key="k",
        server_flags=("--quantize", "int4"),
        opens=True,
        max_file_mb=8,
    )


def test_a_running_server_and_the_other_page(run, opened):
    assert run("ui", "--base-url", "http://host:1", "--streamlit")[0] == 0
    assert opened == [("streamlit", launch.PageSettings(base_url="http://host:1"))]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", 0], "--port is 0; it must be from 1 to 65535."),
        (["--port", 8000], "--port and --server-port are both 8000"),
        (["--max-file-mb", 0], "--max-file-mb is 0"),
        (["--ssl-certfile", "x"], "belong together"),
        (["--root-path", "x"], "must begin with a /"),
        (["--base-url", "http://x", "nano"], "MODEL 'nano' has no effect beside --base-url"),
        (["--base-url", "http://x", "--dtype", "float32"], "--dtype has no effect"),
        (["--base-url", "http://x", "--server-port", 9], "--server-port has no effect"),
    ],
)
def test_what_cannot_be_meant(flags, message, run, opened):
    code, out, err = run("ui", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not opened


def test_an_open_door_is_said(run, opened):
    code, _, err = run("ui", "--host", "0.0.0.0")
    assert code == 0
    assert "warning: whoever reaches 0.0.0.0 can use the page" in err


@pytest.mark.parametrize("missing", ["gradio.blocks", "uvicorn"])
def test_a_missing_extra_names_what_to_install(run, opened, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    package = missing.partition(".")[0]
    said = f"minicpmv: error: The page needs {package}: pip install 'minicpmv[serve,ui]'\n"
    assert run("ui") == (1, "", said)
    assert opened == []


def test_the_key_of_the_environment_is_used(run, opened, monkeypatch):
    monkeypatch.setenv("MINICPMV_API_KEY", "first, second")
    assert run("ui")[0] == 0
    monkeypatch.setenv("MINICPMV_API_KEY", "")
    assert run("ui", "--api-key", "mine")[0] == 0
    assert [settings.api_key for _, settings in opened] == ["first", "mine"]
