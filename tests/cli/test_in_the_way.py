"""What is on the disk in place of OUT exits with 1; OUT that names what is read, with 2."""

import json
import shutil

import pytest

from minicpmv.adapters.load import check_can_have_adapters
from minicpmv.cli import main as command_line
from minicpmv.errors import AdviceError, ArgumentError, OutputExistsError
from minicpmv.loader import load

from ..helpers.golden import GOLDEN

TO_FILES = {
    "batch": "batch rows.jsonl out.jsonl",
    "data": "data convert rows.json out.jsonl --to hf",
    "imatrix": "imatrix nano out.gguf --data text.txt",
    "gguf": "export gguf nano out.gguf",
}
TO_FOLDERS = {
    "convert": "convert text out --to llama",
    "quantize": "quantize nano out",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With all that the commands read."""
    monkeypatch.chdir(tmp_path)
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"custom_id": "a", "body": body}) + "\n")
    (tmp_path / "rows.json").write_text('[{"messages": []}]')
    (tmp_path / "text.txt").write_text("text")
    return tmp_path


@pytest.mark.parametrize("words", TO_FILES.values(), ids=TO_FILES)
def test_a_file_that_is_there_already_is_kept(folder, run, words):
    out = folder / next(word for word in words.split() if word.startswith("out"))
    out.write_text("before")
    code, said, err = run(*words.split())
    expected = f"{out.name}' is there already. Replace it with --overwrite, or name another.\n"
    assert (code, said) == (1, "")
    assert err.endswith(expected)
    assert err.count("\n") == 1
    assert out.read_text() == "before"


def test_files_of_an_export_that_are_there_already_are_kept(folder, run):
    (folder / "out").mkdir()
    (folder / "out" / "Modelfile").write_text("before")
    code, _, err = run("export", "ollama", "nano", "out")
    assert code == 1
    assert "out/Modelfile' is there already. Replace it with --overwrite, or name another." in err
    vision = folder / "out" / "mmproj-nano-F16.gguf"
    vision.write_text("before")
    code, _, err = run("export", "gguf", "nano", "out", "--type", "Q4_0", "--mmproj", "F16")
    assert code == 1
    assert "with --overwrite, or name another, or keep it with --mmproj none.\n" in err
    assert vision.read_text() == "before"


@pytest.mark.parametrize("words", TO_FOLDERS.values(), ids=TO_FOLDERS)
def test_a_folder_that_is_not_empty_is_kept_and_one_of_the_model_is_typed_wrongly(
    folder, run, words
):
    model = GOLDEN / "minicpm-2b" / "ckpt"
    shutil.copytree(model, folder / "text")
    (folder / "out").mkdir()
    (folder / "out" / "x").write_text("before")
    code, _, err = run(*words.split())
    assert code == 1
    assert "'out' is not empty. Replace it with --overwrite, or name another.\n" in err
    own = words.replace("nano", "text").replace(" out", " text")
    code, _, err = run(*own.split(), "--overwrite")
    assert code == 2
    assert "'text' holds the model itself; choose another folder.\n" in err


@pytest.mark.parametrize(
    "words", ["batch rows.jsonl rows.jsonl", "data convert rows.json rows.json --to hf"]
)
def test_what_is_read_is_typed_wrongly_as_out(folder, run, words):
    before = (folder / words.split()[-1 if "batch" in words else 3]).read_text()
    code, _, err = run(*words.split(), "--overwrite")
    assert code == 2
    assert "rows.json" in err
    assert (folder / words.split()[-1 if "batch" in words else 3]).read_text() == before


def test_in_python_the_words_are_those_of_python():
    error = OutputExistsError.of("a/b")
    assert isinstance(error, FileExistsError)
    assert str(error) == "'a/b' is there already. Replace it with overwrite, or name another."


def test_advice_names_flags_where_flags_were_typed(monkeypatch, capsys):
    with load("nano", "cpu", quantize="int8") as chat, pytest.raises(AdviceError) as found:
        check_can_have_adapters(chat.model)
    assert not isinstance(found.value, ArgumentError)  # nothing was typed wrongly
    assert str(found.value).endswith("or load them with quantize=nf4.")

    def fail(*args):
        raise found.value

    monkeypatch.setattr("minicpmv.cli.parse", fail)
    assert command_line(["info"]) == 1
    assert capsys.readouterr().err.endswith("or load them with --quantize nf4.\n")
