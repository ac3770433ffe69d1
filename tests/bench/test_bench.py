"""`minicpmv bench`: every figure is found, peers are compared, and what is wrong is one line."""

import importlib.machinery
import json
import sys
import time
import types
from pathlib import Path

import pytest

from minicpmv.bench.cases import FIGURES, Sample, runs_of
from minicpmv.bench.report import as_text, summary
from minicpmv.bench.runner import take_turns
from minicpmv.cli import main

ROOT = Path(__file__).parents[2]
ONCE = ("--repeat", "1", "--warmup", "0", "--streams", "2")


@pytest.fixture
def bench(capsys):
    """Run the command; (exit code, stdout, stderr)."""

    def run(*words):
        try:
            code = main(["bench", *map(str, words)])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class Steady:
    """A subject that needs the same time for everything."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log
        self.facts = {"load_seconds": 1.0, "dtype": "float32", "layers": {}, "quantize": None}
        self.facts |= {"reason": None, "device": "cpu"}

    def measure(self, run, wanted, seed):
        self.log.append((run, self.name, seed))
        return {name: Sample(self.seconds, 2 * self.seconds, 100) for name in wanted}

    def peak_bytes(self):
        return 10**9

    def close(self):
        pass


def test_figures_of_one_run_are_found_together():
    assert runs_of(["decode", "prefill", "first-448"]) == {
        "text": ["prefill", "decode"],
        "picture-448": ["first-448"],
    }


def test_subjects_take_turns_and_ratios_are_of_rounds():
    log = []
    subjects = [Steady("this", 2.0, log), Steady("other", 3.0, log)]
    names = ["prefill", "first-448", "second-448"]
    found = take_turns(subjects, names, repeat=2, warmup=1, progress=lambda line: None)
    assert [entry[:2] for entry in log[:2]] == [("text", "this"), ("text", "other")]
    assert [entry[:2] for entry in log[4:6]] == [("text", "other"), ("text", "this")]
    assert len({seed for _, _, seed in log}) == 6  # never the same prompt again
    assert all(len(samples) == 2 for side in found for samples in side.values())
    data = summary(subjects, names, found)
    prefill, first, second = data["figures"]
    assert prefill["values"][0]["median"] == 50  # tokens per second
    assert first["values"][1]["median"] == 3.0
    assert all(line["ratio"]["median"] == 1.5 for line in data["figures"])
    assert prefill["cpu_ratio"]["median"] == 1.5
    assert second["of_first"] == [1.0, 1.0]


def test_all_figures_of_a_random_model(bench):
    code, out, err = bench("--shape", "tiny", "--layers", "1", *ONCE, "--json", "--device", "cpu")
    assert code == 0, err
    data = json.loads(out)
    assert [line["name"] for line in data["figures"]] == list(FIGURES)
    assert all(line["values"][0]["median"] > 0 for line in data["figures"])
    assert (data["model"]["layers"], data["model"]["whole_layers"]) == (1, 2)
    assert data["machine"]["threads"] >= 1
    assert data["subjects"][0]["load_seconds"] > 0
    assert data["subjects"][0]["peak_bytes"] > 10**7
    assert data["memory_limit"]["bytes_per_token"] > 10**5
    text = as_text(data)
    assert "1 of 2 decoder layers" in text
    assert "2 streams in all" in text
    assert err.count("writing a random model") == 1


def test_against_generate_in_the_same_process(bench):
    words = ("--shape", "tiny", *ONCE, "--against", "generate", "--only", "prefill", "streams")
    code, out, err = bench(*words, "--device", "cpu")
    assert code == 0, err
    assert "generate (" in out
    assert out.count("x ") >= 2


def test_a_random_model_is_kept_and_found_again(bench, tmp_path):
    words = ("--shape", "tiny", "--folder", tmp_path / "model", *ONCE, "--only", "encode")
    assert "writing" in bench(*words)[2]
    assert "writing" not in bench(*words)[2]
    code, _, err = bench(*words, "--layers", "1")
    assert (code, "another random model" in err) == (1, True)


def test_a_random_model_is_not_written_over_other_files(bench, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    words = ("--shape", "tiny", *ONCE, "--only", "encode", "--folder")
    code, out, err = bench(*words, tmp_path)
    assert (code, out) == (1, "")
    assert "has files that are no random model" in err
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "mine"
    code, _, err = bench(*words, tmp_path / "config.json")
    assert (code, "which is a file; name a folder" in err) == (1, True)


def test_another_checkout_measures_in_its_own_process(bench):
    words = ("nano", *ONCE, "--only", "prefill", "--json", "--against", ROOT, "--device", "cpu")
    code, out, err = bench(*words)
    assert code == 0, err
    data = json.loads(out)
    assert data["figures"][0]["ratio"]["median"] > 0
    assert data["subjects"][1]["asked"] == "ChatSubject"
    assert data["subjects"][1]["peak_bytes"] > 10**7


def test_an_error_of_the_other_checkout_is_one_line(bench, tmp_path):
    (tmp_path / "minicpmv").mkdir()
    (tmp_path / "minicpmv" / "__init__.py").touch()
    code, _, err = bench("nano", *ONCE, "--against", tmp_path, "--device", "cpu")
    assert code == 1
    assert "error: " in err.splitlines()[-1]
    assert "minicpmv.loader" in err.splitlines()[-1]


def test_against_llama_cpp(bench, llama_cpp):
    words = ("--shape", "tiny", *ONCE, "--json", "--against", "llama.cpp", *llama_cpp)
    code, out, err = bench(*words, "--device", "cpu")
    assert code == 0, err
    data = json.loads(out)
    theirs = {line["name"]: line["values"][1] for line in data["figures"]}
    assert theirs["encode"]["median"] == 0.25
    assert theirs["prefill"]["median"] == pytest.approx(500)
    assert theirs["decode"]["median"] == pytest.approx(100)
    assert all(values is not None for values in theirs.values())
    assert data["subjects"][1]["version"] == "1234 (abcdef)"


def test_llama_cpp_without_a_projector_has_no_pictures(bench, llama_cpp):
    words = ("--shape", "tiny", *ONCE, "--only", "encode", "prefill", "--device", "cpu")
    code, out, err = bench(*words, "--json", "--against", "llama.cpp", llama_cpp[0])
    assert code == 0, err
    encode, prefill = json.loads(out)["figures"]
    assert encode["values"][1] is None
    assert "ratio" not in encode
    assert "ratio" in prefill


def test_what_llama_cpp_says_is_passed_on(bench, llama_cpp):
    broken = llama_cpp[0].with_name("broken.gguf")
    broken.touch()
    code, _, err = bench("nano", *ONCE, "--against", "llama.cpp", broken)
    assert code == 1
    assert "error: this is no model" in err.splitlines()[-1]


def test_without_llama_cpp_the_line_says_what_to_install(bench, llama_cpp, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for folder in (None, str(tmp_path)):
        if folder is None:
            monkeypatch.delenv("LLAMA_CPP_DIR")
        else:
            monkeypatch.setenv("LLAMA_CPP_DIR", folder)
        code, out, err = bench("nano", "--against", "llama.cpp", *llama_cpp)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "There is no llama-server" in err
        assert "Install llama.cpp" in err


def test_llama_cpp_python_where_there_is_no_server(bench, llama_cpp, monkeypatch, tmp_path):
    evaluated = []

    class Llama:
        def __init__(self, file, n_threads, **settings):
            assert Path(file) == llama_cpp[0]
            assert n_threads == settings["n_threads_batch"]

        def n_vocab(self):
            return 512

        def reset(self):
            evaluated.append([])

        def eval(self, ids):
            evaluated[-1] += ids
            time.sleep(0.001)

        def sample(self, temp):
            assert temp == 0
            return 7

        def close(self):
            evaluated.append("closed")

    module = types.ModuleType("llama_cpp")
    module.Llama, module.__version__ = Llama, "0.3"
    module.__spec__ = importlib.machinery.ModuleSpec("llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    words = ("--shape", "tiny", *ONCE, "--device", "cpu", "--only", "prefill", "decode", "streams")
    code, out, err = bench(*words, "--json", "--against", "llama.cpp", *llama_cpp)
    assert code == 0, err
    prefill, decode, streams = json.loads(out)["figures"]
    assert prefill["values"][1]["tokens"] == 512
    assert decode["values"][1]["tokens"] == 32
    assert streams["values"][1] is None
    assert len(evaluated[0]) == 512 + 32
    assert evaluated[0][512:] == [7] * 32
    assert evaluated[-1] == "closed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--repeat 0", "--repeat is 0; it must be at least 1"),
        ("--warmup -1", "--warmup is -1"),
        ("--streams 0", "--streams is 0"),
        ("--threads 0", "--threads is 0"),
        ("--layers 2", "--layers has no effect without --shape"),
        ("--folder x", "--folder has no effect without --shape"),
        ("--shape 2.6 --layers 29", "--layers is 29; the decoder of 2.6 has 28"),
        ("--shape 2.7", "unknown word '2.7'"),
        ("nano --shape 2.6", "name one of them"),
        ("--only decoding", "did you mean 'decode'?"),
        ("--against llama.cpp", "--against llama.cpp is followed by 0 files"),
        ("--against generate nano", "--against generate takes no further word"),
        ("--against nowhere", "--against is 'nowhere'; expected generate, llama.cpp"),
        ("--dtype float7", "float7"),
        ("--device gpu", "--device 'gpu' is not available"),
    ],
)
def test_what_was_typed_wrongly_exits_with_2(bench, words, message):
    code, out, err = bench(*words.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
