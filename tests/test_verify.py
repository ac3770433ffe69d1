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
from minicpmv.processing.templates import released_chat_template
from minicpmv.releases import RELEASES
from minicpmv.verify.checks import CaseReport
from minicpmv.verify.probes import Probe
from minicpmv.verify.roads import TOLERANCES, compare
from minicpmv.verify.stages import Trace

from .conftest import CHECKPOINTS, GOLDEN_FOLDERS

GOLDEN = Path(__file__).parent / "golden"


def run(*words: Any, capsys: pytest.CaptureFixture) -> tuple[int, Any]:
    """Exit code and JSON of a command."""
    code = main(["verify", *map(str, words), "--json"])
    captured = capsys.readouterr()
    assert captured.out, captured.err
    return code, json.loads(captured.out)


def copied(folder: Path, checkpoint: Path = CHECKPOINTS["2.6"]) -> Path:
    shutil.copytree(checkpoint, folder / "copy", copy_function=shutil.copyfile)
    return folder / "copy"


# Damage: what is done to a checkpoint, by the first stage that must drift.


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


# Roads


def test_the_default_model_passes(capsys):
    assert main(["verify", "--roads", "batched", "uncached", "--max-new-tokens", "4"]) == 0
    captured = capsys.readouterr()
    assert "batched    pixels, slices, ids: equal" in captured.out
    assert "All 2 roads lead to one number." in captured.out
    assert "batched: all probes in one batch" in captured.err


def test_all_roads_of_a_tiny_model(capsys):
    code, report = run(CHECKPOINTS["2.6"], "--max-new-tokens", "4", capsys=capsys)
    assert code == 0
    assert report["passed"] is True
    assert report["precision"] == "float32"
    names = ["batched", "uncached", "streamed", "attention", "reloaded", "bfloat16"]
    assert [road["road"] for road in report["roads"]] == names
    assert set(report["tolerances"]) == set(TOLERANCES)
    for road in report["roads"]:
        assert road["passed"] is True
        assert road["first_drift"] is None
        assert road["skipped"] == ""
    batched = report["roads"][0]["stages"]
    stages = ["pixels", "slices", "ids", "vision", "resampler", "logits", "text"]
    assert [stage["stage"] for stage in batched] == stages
    assert batched[5]["top1"] == 1.0
    assert 0 < batched[3]["mean_relative"] < batched[3]["largest_relative"] < 1e-4
    halved = report["roads"][-1]["stages"]
    assert halved[5]["tolerance"] == "bfloat16"
    assert 1e-3 < halved[5]["mean_relative"] < 0.1
    assert report["roads"][4]["stages"][0] == halved[0] | {"stage": "weights"} | {
        "largest": None,
        "mean": None,
    }


def test_a_halved_reference_is_compared_as_halved(capsys):
    folder = GOLDEN / "minicpm-2b" / "ckpt"
    words = ("--dtype", "bfloat16", "--roads", "dtypes", "--max-new-tokens", "4")
    code, report = run(folder, *words, capsys=capsys)
    assert code == 0
    (road,) = report["roads"]
    assert (road["road"], road["stages"][1]["tolerance"]) == ("float32", "bfloat16")


def test_nothing_is_proven_where_no_road_is_taken(capsys):
    words = ("--dtype", "bfloat16", "--roads", "dtypes", "--max-new-tokens", "1")
    code, report = run("nano", *words, capsys=capsys)
    assert (code, report["passed"]) == (1, False)
    assert report["roads"][0]["skipped"] == "no other dtype to load a model of bfloat16 in"


def test_a_text_model_has_fewer_stages(tmp_path, capsys):
    folder = GOLDEN / "minicpm-2b" / "ckpt"
    convert(folder, tmp_path / "llama", "llama")
    words = ("--roads", "batched", "streamed", "--against", tmp_path / "llama")
    code, report = run(folder, *words, capsys=capsys)
    assert code == 0
    stages = [stage["stage"] for stage in report["roads"][0]["stages"]]
    assert stages == ["ids", "logits", "text"]
    assert report["against"]["format"] == "llama"
    assert report["roads"][-1]["road"] == "against"
    assert report["roads"][-1]["stages"][1]["tolerance"] == "float32"


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_in_its_stage(name, tmp_path, capsys):
    folder = copied(tmp_path)
    DAMAGE[name](folder)
    if name == "slices":  # both files must say it, or the model does not load
        config = json.loads((folder / "config.json").read_text())
        config["slice_config"] = {**config.get("slice_config", {}), "scale_resolution": 336}
        (folder / "config.json").write_text(json.dumps(config))
    words = ("--roads", "none", "--max-new-tokens", "2", "--against", folder)
    code, report = run(CHECKPOINTS["2.6"], *words, capsys=capsys)
    (road,) = report["roads"]
    assert code == 1
    assert report["passed"] is False
    # Other sizes are other pixels, too, and pixels come first.
    expected = "pixels" if name == "slices" else name.split(",")[0]
    assert road["first_drift"] == expected
    if name == "slices":
        assert [stage["passed"] for stage in road["stages"][:2]] == [False, False]


def test_the_table_names_the_first_drift(tmp_path, capsys):
    folder = copied(tmp_path)
    DAMAGE["resampler"](folder)
    words = ["--roads", "none", "--against", str(folder), "--max-new-tokens", "2"]
    assert main(["verify", str(CHECKPOINTS["2.6"]), *words]) == 1
    out = capsys.readouterr().out
    assert "against (" in out
    assert "drifts first at resampler." in out
    assert "DRIFTS at '" in out


def test_pictures_and_questions_of_the_user(tmp_path, capsys):
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 30).save(tmp_path / "mine.png")
    words = ("--image", tmp_path / "mine.png", "--prompt", "What?", "--roads", "streamed")
    code, report = run(CHECKPOINTS["2.6"], *words, "--max-new-tokens", "2", capsys=capsys)
    assert code == 0
    assert report["probes"][-1] == "yours"


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
    result = compare("bfloat16", "", tolerance, [Probe("p", [])], [ours], [theirs])
    text = result.stages[-1]
    assert (text.passed, text.note) == (passed, note)


def test_no_tie_is_forgiven_where_the_logits_drift():
    ours = trace([[0.0, 3.0, 0.0], [2.01, 2.0, 0.0]], [1, 0], "ab")
    theirs = trace([[0.0, 3.0, 9.0], [2.0, 2.01, 0.0]], [1, 1], "aa")
    result = compare("bfloat16", "", "bfloat16", [Probe("p", [])], [ours], [theirs])
    assert result.first_drift == "logits"
    assert not result.stages[-1].passed
    assert result.stages[-1].note == "token 2 of 2 differs, margin 0.01"


def test_values_that_are_not_finite_drift():
    ours = trace([[0.0, 3.0]], [1], "a")
    theirs = trace([[0.0, float("nan")]], [1], "a")
    result = compare("against", "", "int4", [Probe("p", [])], [ours], [theirs])
    assert result.first_drift == "logits"


# Golden cases


def some_cases(model: str, names: list[str], folder: Path) -> Path:
    """A copy of a golden folder with some cases only; the checkpoint is not copied."""
    public = folder / model / "public"
    shutil.copytree(GOLDEN / model / "public", public, copy_function=shutil.copyfile)
    if (public / "chat.json").exists():
        for name in ("slicing_table.json", "images.json"):
            records = json.loads((public / name).read_text())
            if isinstance(records, dict):
                records["rows"] = records["rows"][:40]
            (public / name).write_text(
                json.dumps(records if isinstance(records, dict) else records[:1])
            )
        file, cases = public / "chat.json", json.loads((public / "chat.json").read_text())
        file.write_text(json.dumps([case for case in cases if case["name"] in names]))
    else:
        file = public / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["cases"] = [case for case in manifest["cases"] if case["name"] in names]
        file.write_text(json.dumps(manifest))
    return public


def checkpoint_of(model: str) -> Path:
    return next(path for name in ("checkpoint", "ckpt") if (path := GOLDEN / model / name).is_dir())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("minicpm-llama3-v-2_5", ["single_tiny"]),
        ("minicpm-v-2_6", ["single_tiny", "batch_mixed"]),
        ("minicpm-v-1_0", ["tiny"]),
        ("minicpm-v-2", ["landscape", "textonly"]),
        ("omnilmm-12b", ["wide_inline"]),
        (
            "minicpm-2b",
            ["greedy_0", "chat_0", "tokenize_1", "llama_format_0", "kv_cache", "gptq_int4"],
        ),
        ("minicpm-2b-128k", ["variant_linear2_T30", "rope_table_T49", "ntk_stateful_quirk"]),
        ("minicpm-moe-8x2b", ["router", "moe_block", "train_grads"]),
    ],
)
def test_golden_cases_pass(model, names, tmp_path, capsys):
    public = some_cases(model, names, tmp_path)
    code, report = run(checkpoint_of(model), "--golden", public, capsys=capsys)
    failed = [case for case in report["cases"] if case["status"] != "passed"]
    assert (code, failed) == (0, [])
    assert set(names) <= {case["case"] for case in report["cases"]}
    assert report["summary"]["comparisons"] > len(names)
    assert report["summary"]["passed"] == report["summary"]["cases"]
    assert report["summary"]["worst_share"] < 1


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("vision", "vision"),
        ("resampler", "resampler"),
        ("logits", "logits"),
        ("pixels", "pixel_values_sha256"),
        ("ids", "prompt"),
    ],
)
def test_golden_cases_find_damage(name, stage, tmp_path, capsys):
    folder = copied(tmp_path)
    DAMAGE[name](folder)
    public = some_cases("minicpm-v-2_6", ["single_tiny"], tmp_path)
    code, report = run(folder, "--golden", public, capsys=capsys)
    case = next(case for case in report["cases"] if case["case"] == "single_tiny")
    assert code == 1
    assert (case["status"], case["first_failure"]) == ("failed", stage)
    assert report["summary"]["failed"] >= 1


def test_the_checkpoint_beside_the_cases_is_found(capsys):
    folder = GOLDEN / "minicpm-1b"
    assert main(["verify", "--golden", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "passed      minicpm-1b             logits_0_b1_t7" in out
    assert "nothing in this package computes it" in out
    assert " 0 failed, " in out


def test_what_is_not_compared_is_listed_and_proves_nothing(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    case = {"name": "odd", "kind": "telepathy", "inputs": {}, "expect": {"x": {"json": 1}}}
    (folder / "manifest.json").write_text(json.dumps({"cases": [case]}))
    code, report = run(GOLDEN / "minicpm-2b" / "ckpt", "--golden", folder, capsys=capsys)
    assert code == 1
    assert report["summary"]["not_covered"] == 1
    assert report["cases"][0]["status"] == "not covered"


def test_a_field_that_nobody_knows_is_listed(tmp_path, capsys):
    public = some_cases("minicpm-v-2", ["textonly"], tmp_path)
    manifest = json.loads((public / "manifest.json").read_text())
    manifest["cases"][0] |= {"aura": 1}
    (public / "manifest.json").write_text(json.dumps(manifest))
    _, report = run(checkpoint_of("minicpm-v-2"), "--golden", public, capsys=capsys)
    (note,) = [c for case in report["cases"] for c in case["checks"] if c["stage"] == "aura"]
    assert note["passed"] is None


def test_a_stage_that_raises_fails_and_the_next_is_still_compared():
    report = CaseReport("model", "case")
    with report.stage("vision"):
        raise RuntimeError("no tower")
    with report.stage("logits"):
        report.close("logits", torch.ones(3), torch.ones(3), 0.0)
    assert report.status == "failed"
    assert [check.stage for check in report.failures] == ["vision"]
    assert report.num_compared == 2


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--golden", "nowhere"], "There is no folder 'nowhere'"),
        (["--golden", str(GOLDEN_FOLDERS["2.6"] / "checkpoint")], "holds no golden cases"),
        (["--golden", str(GOLDEN), "--against", "nano"], "--against has no effect with --golden"),
        (["--golden", str(GOLDEN), "--dtype", "bfloat16"], "in float32 on the CPU"),
        (["--roads", "none"], "leaves nothing to compare"),
        (["--roads", "none", "batched"], "--roads none stands alone"),
        (["--against", "nowhere"], "Model 'nowhere' is not known"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
        ([str(GOLDEN / "minicpm-1b" / "ckpt"), "--image", "examples"], "is a folder"),
    ],
)
def test_what_cannot_be_verified_is_named(words, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["verify", *words]) == 1
    assert message in capsys.readouterr().err
