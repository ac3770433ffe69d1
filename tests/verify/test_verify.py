"""`minicpmv verify`: sound models pass, and damage is found in the stage where it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from minicpmv.cli import main
from minicpmv.export.convert import convert
from minicpmv.export.quantize import quantize
from minicpmv.processing.templates import released_chat_template
from minicpmv.releases import RELEASES
from minicpmv.verify.compare import compare
from minicpmv.verify.prompts import Prompt
from minicpmv.verify.tolerances import TOLERANCES
from minicpmv.verify.trace import Trace

from ..helpers.golden import CHECKPOINTS, GOLDEN


def run(*words: Any, capsys: pytest.CaptureFixture) -> tuple[int, Any]:
    """Exit code and JSON of a command."""
    code = main(["verify", *map(str, words), "--json"])
    captured = capsys.readouterr()
    assert captured.out, captured.err
    return code, json.loads(captured.out)


def copied(folder: Path, checkpoint: Path = CHECKPOINTS["2.6"]) -> Path:
    shutil.copytree(checkpoint, folder / "copy", copy_function=shutil.copyfile)
    return folder / "copy"


# Damage: what is done to a checkpoint, by the first stage that must differ.


def scaled(part: str) -> Callable[[Path], None]:
    """One matrix of that part is 2 % larger."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in sorted(tensors) if part in name and tensors[name].ndim == 2)
        tensors[name] *= 1.02
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def changed(file: str, **fields: Any) -> Callable[[Path], None]:
    """Other fields in a JSON file."""

    def damage(folder: Path) -> None:
        old = json.loads((folder / file).read_text("utf-8"))
        (folder / file).write_text(json.dumps(old | fields), "utf-8")

    return damage


def other_template(folder: Path) -> None:
    template = released_chat_template(RELEASES["2.6"])
    assert "You are a helpful assistant." in template
    template = template.replace("You are a helpful assistant.", "You are helpful.")
    (folder / "chat_template.jinja").write_text(template, "utf-8")


MEANS = {"norm_mean": [0.48, 0.46, 0.41], "image_mean": [0.48, 0.46, 0.41]}
DAMAGE = {
    "vision": scaled("vpm.encoder.layers.1.mlp.fc1"),
    "resampler": scaled("resampler.proj"),
    "logits": scaled("llm.model.layers.1.mlp.up_proj"),
    "pixels": changed("preprocessor_config.json", **MEANS),
    "pixels, by another filter": changed("preprocessor_config.json", resample=2),
    "slices": changed("preprocessor_config.json", scale_resolution=336),
    "ids": other_template,
}


# Checks


def test_the_default_model_passes(capsys):
    assert main(["verify", "--checks", "batched", "uncached", "--max-new-tokens", "4"]) == 0
    captured = capsys.readouterr()
    assert "batched    pixels, slices, ids: equal" in captured.out
    assert "All 2 checks passed." in captured.out
    assert "batched: all prompts in one batch" in captured.err


def test_all_checks_of_a_tiny_model(capsys):
    code, report = run(CHECKPOINTS["2.6"], "--max-new-tokens", "4", capsys=capsys)
    assert code == 0
    assert report["passed"] is True
    assert report["precision"] == "float32"
    names = ["batched", "uncached", "streamed", "attention", "engine", "kernels"]
    names += ["reloaded", "bfloat16", "int8", "int4"]
    assert [check["check"] for check in report["checks"]] == names
    assert set(report["tolerances"]) == set(TOLERANCES)
    for check in report["checks"]:
        assert check["passed"] is True
        assert check["first_mismatch"] is None
        assert check["skipped"] == "" or check["check"] == "kernels"
    batched = report["checks"][0]["stages"]
    stages = ["pixels", "slices", "ids", "vision", "resampler", "logits", "text"]
    assert [stage["stage"] for stage in batched] == stages
    assert batched[5]["top1"] == 1.0
    assert 0 < batched[3]["mean_relative"] < batched[3]["largest_relative"] < 1e-4
    halved = report["checks"][names.index("bfloat16")]["stages"]
    assert halved[5]["tolerance"] == "bfloat16"
    assert 1e-3 < halved[5]["mean_relative"] < 0.1
    assert report["checks"][names.index("reloaded")]["stages"][0] == halved[0] | {
        "stage": "weights"
    } | {
        "largest": None,
        "mean": None,
    }


def test_a_halved_reference_is_compared_as_halved(capsys):
    folder = GOLDEN / "minicpm-2b" / "ckpt"
    words = ("--dtype", "bfloat16", "--checks", "dtypes", "--max-new-tokens", "4")
    code, report = run(folder, *words, capsys=capsys)
    assert code == 0
    (check,) = report["checks"]
    assert (check["check"], check["stages"][1]["tolerance"]) == ("float32", "bfloat16")


@pytest.mark.parametrize("to", ["packed-int4", "int8"])
def test_packed_weights_are_compared_as_packed(to, tmp_path, capsys):
    """Their products round activations, in the vision tower too."""
    quantize("nano", tmp_path / "out", to, progress=False)
    words = ("--checks", "batched", "attention", "--max-new-tokens", "4")
    code, report = run(tmp_path / "out", *words, capsys=capsys)
    assert code == 0
    for check in report["checks"]:
        tolerances = {s["stage"]: s["tolerance"] for s in check["stages"]}
        assert {tolerances[stage] for stage in ("vision", "resampler", "logits")} == {"int8"}


def test_nothing_is_proven_where_no_check_runs(capsys):
    words = ("--dtype", "bfloat16", "--checks", "dtypes", "--max-new-tokens", "1")
    code, report = run("nano", *words, capsys=capsys)
    assert (code, report["passed"]) == (1, False)
    assert report["checks"][0]["skipped"] == "no other dtype to load a model of bfloat16 in"


def test_a_text_model_has_fewer_stages(tmp_path, capsys):
    folder = GOLDEN / "minicpm-2b" / "ckpt"
    convert(folder, tmp_path / "llama", "llama")
    words = ("--checks", "batched", "streamed", "--against", tmp_path / "llama")
    code, report = run(folder, *words, capsys=capsys)
    assert code == 0
    stages = [stage["stage"] for stage in report["checks"][0]["stages"]]
    assert stages == ["ids", "logits", "text"]
    assert report["against"]["format"] == "llama"
    assert report["checks"][-1]["check"] == "against"
    assert report["checks"][-1]["stages"][1]["tolerance"] == "float32"


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_in_its_stage(name, tmp_path, capsys):
    folder = copied(tmp_path)
    DAMAGE[name](folder)
    if name == "slices":  # both files must say it, or the model does not load
        config = json.loads((folder / "config.json").read_text())
        config["slice_config"] = {**config.get("slice_config", {}), "scale_resolution": 336}
        (folder / "config.json").write_text(json.dumps(config))
    words = ("--checks", "none", "--max-new-tokens", "2", "--against", folder)
    code, report = run(CHECKPOINTS["2.6"], *words, capsys=capsys)
    (check,) = report["checks"]
    assert code == 1
    assert report["passed"] is False
    # Other sizes are other pixels, too, and pixels come first.
    expected = "pixels" if name == "slices" else name.split(",")[0]
    assert check["first_mismatch"] == expected
    if name == "slices":
        assert [stage["passed"] for stage in check["stages"][:2]] == [False, False]


def test_the_table_names_the_first_mismatch(tmp_path, capsys):
    folder = copied(tmp_path)
    DAMAGE["resampler"](folder)
    words = ["--checks", "none", "--against", str(folder), "--max-new-tokens", "2"]
    assert main(["verify", str(CHECKPOINTS["2.6"]), *words]) == 1
    out = capsys.readouterr().out
    assert "against (" in out
    assert "failed first at resampler." in out
    assert "FAILED on prompt '" in out


def test_pictures_and_questions_of_the_user(tmp_path, capsys):
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 30).save(tmp_path / "mine.png")
    words = ("--image", tmp_path / "mine.png", "--prompt", "What?", "--checks", "streamed")
    code, report = run(CHECKPOINTS["2.6"], *words, "--max-new-tokens", "2", capsys=capsys)
    assert code == 0
    assert report["prompts"][-1] == "yours"


def trace(logits: list[list[float]], ids: list[int], text: str) -> Trace:
    return Trace({"logits": torch.tensor(logits)}, 1, ids, text)


@pytest.mark.parametrize(
    ("lead", "tolerance", "passed", "note"),
    [
        (0.01, "bfloat16", True, "token 2 of 2 differs, margin 0.01: a tie"),
        (9.0, "bfloat16", False, "token 2 of 2 differs, margin 9"),
        (0.1, "float32", False, "token 2 of 2 differs, margin 0.1"),
    ],
)
def test_answers_may_part_at_a_near_tie_only(lead, tolerance, passed, note):
    ours = trace([[0.0, 3.0, 0.0], [2.0 + lead, 2.0, 0.0]], [1, 0], "ab")
    theirs = trace([[0.0, 3.0, 0.0], [2.0, 2.0 + lead, 0.0]], [1, 1], "aa")
    result = compare("bfloat16", "", tolerance, [Prompt("p", [])], [ours], [theirs])
    text = result.stages[-1]
    assert (text.passed, text.note) == (passed, note)


def test_no_tie_is_forgiven_where_the_logits_differ():
    ours = trace([[0.0, 3.0, 0.0], [2.01, 2.0, 0.0]], [1, 0], "ab")
    theirs = trace([[0.0, 3.0, 9.0], [2.0, 2.01, 0.0]], [1, 1], "aa")
    result = compare("bfloat16", "", "bfloat16", [Prompt("p", [])], [ours], [theirs])
    assert result.first_mismatch == "logits"
    assert not result.stages[-1].passed
    assert result.stages[-1].note == "token 2 of 2 differs, margin 0.01"


def test_values_that_are_not_finite_fail():
    ours = trace([[0.0, 3.0]], [1], "a")
    theirs = trace([[0.0, float("nan")]], [1], "a")
    result = compare("against", "", "int4", [Prompt("p", [])], [ours], [theirs])
    assert result.first_mismatch == "logits"


# Mistakes


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--golden", "cases"], 2, "moved to the repository's tests: pytest tests/replay --golden"),
        (["--checks", "none"], 2, "leaves nothing to compare"),
        (["--checks", "none", "batched"], 2, "--checks none stands alone"),
        (["--checks", "batched", "--roads", "batched"], 2, "--roads is the old name of --checks;"),
        (["--against", "nowhere"], 1, "Model 'nowhere' is not known"),
        (["--max-new-tokens", "0"], 2, "--max-new-tokens is 0"),
        ([str(GOLDEN / "minicpm-1b" / "ckpt"), "--image", "examples"], 1, "is a folder"),
    ],
)
def test_what_cannot_be_verified_is_named(words, code, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["verify", *words]) == code
    assert message in capsys.readouterr().err


def test_the_old_name_of_checks_still_works(capsys):
    assert main(["verify", "--roads", "streamed", "--max-new-tokens", "1"]) == 0
    captured = capsys.readouterr()
    assert "The check passed." in captured.out
    assert "--roads is the old name of --checks" in captured.err
