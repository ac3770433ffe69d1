"""`minicpmv serve`: from what is typed to settings."""

import pytest

from minicpmv.cli import main
from minicpmv.serve import server
from minicpmv.serve.settings import ROWS, flag_of


@pytest.fixture
def served(monkeypatch):
    """The settings that the server was started with."""
    seen = []

    def run(settings):
        seen.append(settings)
        return 0

    monkeypatch.setattr(server, "run", run)
    return seen


def test_nothing_typed_is_the_bundled_model_on_this_machine(served):
    assert main(["serve"]) == 0
    assert (served[0].model, served[0].host, served[0].port) == (("nano",), "127.0.0.1", 8000)


def test_words_and_flags_may_stand_in_any_order(served):
    main(["serve", "--api-key", "one", "a/b", "--port", "9000", "--api-key", "two", "c"])
    settings = served[0]
    assert settings.model == ("a/b", "c")
    assert (settings.api_key, settings.port) == (("one", "two"), 9000)
    main(["serve", "-m", "a/b", "--no-media-urls", "--served-model-name", "x", "y", "--lenient"])
    assert served[1].names == ("x", "y")
    assert (served[1].media_urls, served[1].lenient) == (False, True)


def test_a_flag_wins_over_environment_and_file(served, monkeypatch, tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nmax-queue: 2\n")
    monkeypatch.setenv("MINICPMV_MAX_QUEUE", "3")
    main(["serve", "--config", str(file), "--port", "4"])
    assert (served[0].port, served[0].max_queue) == (4, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "many"], "--port is 'many'; expected a whole number"),
        (["--prot", "1"], "unknown argument --prot. Did you mean --port?"),
        (["--log-format", "xml"], "--log-format is 'xml'; expected one of text, json"),
        (["nano", "--model", "nano"], "name all in one way"),
    ],
)
def test_what_is_typed_wrongly_is_one_line(served, capsys, words, message):
    try:
        code = main(["serve", *words])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert served == []


def test_a_file_that_is_not_there_is_named(served, capsys):
    assert main(["serve", "--config", "nowhere.yaml"]) == 1
    assert "nowhere.yaml: No such file" in capsys.readouterr().err


def test_every_setting_has_its_flag_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    out = capsys.readouterr().out
    assert all(f"{flag_of(name)} " in out or f"{flag_of(name)}\n" in out for name in ROWS)
