"""Whole fine-tunings of a micro model: what they write, and that it is what was trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from minicpmv import load
from minicpmv.data.faults import DataError
from minicpmv.errors import ArgumentError
from minicpmv.train.sft.run import run

from ...helpers.micro import weights_of

FILES = {"data", "metrics.jsonl", "losses.png", "options.json", "report.json", "log.txt"}


def test_full_tuning_writes_a_checkpoint_that_has_learned(options, micro, capsys):
    opts = options(
        samples=1,
        max_steps=30,
        save_every=30,
        eval_data=options().data,
        eval_every=15,
        max_length=1024,
        learning_rate=3e-3,
    )
    run(opts)
    out = Path(opts.output)
    assert FILES | {"config.json", "model.safetensors", "samples.md"} <= {
        path.name for path in out.iterdir()
    }
    before, after = weights_of(micro), weights_of(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith(("llm.", "resampler.")) for name in changed)
    assert {"llm.lm_head.weight", "resampler.kv_proj.weight"} <= changed
    lines = (out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] / 2
    assert [r["step"] for r in records if "eval_loss" in r] == [15, 30]
    report = json.loads((out / "report.json").read_text())
    assert (report["steps"], report["data"]["rows"]) == (30, 15)
    assert report["peak_bytes"] >= 0
    assert report["estimate"]["total_bytes"] > 0
    assert "step 30/30" in capsys.readouterr().err
    asked = (out / "samples.md").read_text()
    assert asked.count("## After step") == 2
    assert "'Which colour?'" in asked
    assert load(out, "cpu").ask("Say 1.", max_new_tokens=2) is not None


def test_an_adapter_holds_what_was_trained(options, micro):
    opts = options(lora=True, lora_r=4, lora_alpha=8.0, tune_resampler=True)
    run(opts)
    out = Path(opts.output)
    names = set(weights_of(out))
    assert any("lora_A" in name for name in names)
    assert any("resampler" in name for name in names)
    assert not any("vision_tower" in name or "vpm" in name for name in names)
    settings = json.loads((out / "training_settings.json").read_text())
    assert settings["base_model"] == str(micro)
    assert settings["parts"]["language"] == "lora"
    assert (out / "checkpoint-4" / "complete.json").is_file()


def test_frozen_parts_stay(options, micro):
    opts = options(tune_llm=False, tune_vision=True, tune_resampler=False, max_steps=2)
    run(opts)
    before, after = weights_of(micro), weights_of(Path(opts.output))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("vpm.") for name in changed)


def test_rows_packed_and_padded_give_the_same_losses(options):
    losses = []
    for name, packing in (("packed", True), ("padded", False)):
        # One row per step in both, so that the order is the only thing that packing changes.
        opts = options(name, packing=packing, batch=16, max_steps=2, tune_vision=True)
        run(opts)
        lines = (Path(opts.output) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    torch.testing.assert_close(
        torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-5, rtol=1e-5
    )


def test_stored_features_change_nothing(options):
    losses = []
    for name, feature_cache in (("stored", True), ("live", False)):
        opts = options(name, feature_cache=feature_cache, max_steps=3)
        run(opts)
        lines = (Path(opts.output) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        assert (Path(opts.output) / "features").exists() is feature_cache
    torch.testing.assert_close(
        torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-5, rtol=1e-5
    )


def test_faults_stop_a_run_unless_rows_may_be_skipped(options, rows, tmp_path):
    content = json.loads(rows.read_text())
    content[3]["conversations"][1]["content"] = " "
    broken = rows.with_name("broken.json")
    broken.write_text(json.dumps(content))
    with pytest.raises(DataError, match="row 3"):
        run(options(data=str(broken)))
    opts = options("skipping", data=str(broken), skip_bad_rows=True, max_steps=1)
    run(opts)
    report = json.loads((Path(opts.output) / "report.json").read_text())
    assert report["data"]["skipped_rows"] == 1
    assert report["skipped"][0].startswith("row 3")


def test_an_estimate_trains_nothing(options, capsys):
    opts = options(estimate=True)
    run(opts)
    shown = capsys.readouterr().out
    assert "parameters are trained" in shown
    assert "in all, per device" in shown
    assert not (Path(opts.output) / "options.json").exists()


def test_other_options_in_the_same_folder_are_named(options):
    run(options(max_steps=1))
    with pytest.raises(ValueError, match=r"--learning-rate 0\.001, and this one has 0\.5"):
        run(options(max_steps=1, learning_rate=0.5))


def test_a_folder_with_other_files_is_refused(options, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(OSError, match=r"is not empty \(thesis.tex\)"):
        run(options())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llm_type": "minicpm"}, "llm_type is 'minicpm', and the language model"),
        ({"lora": True, "lora_targets": "no_such_layer"}, "no_such_layer"),
        ({"model": "no/such/folder/here"}, "no/such/folder/here"),
    ],
)
def test_what_cannot_be_is_said_before_training(options, changes, words):
    with pytest.raises((ArgumentError, OSError, ValueError), match=words):
        run(options(**changes))


def test_qlora_learns_the_same_with_samples_in_between(options):
    pytest.importorskip("bitsandbytes")
    losses = []
    for name, samples in (("without", 0), ("with", 1)):
        changes = {"samples_every": 1, "sample_tokens": 2} if samples else {}
        opts = options(name, qlora=True, lora_r=4, samples=samples, **changes)
        run(opts)
        lines = (Path(opts.output) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][-1]


def test_tuning_goes_on_from_an_adapter(options):
    first = options("first", lora=True, lora_r=4)
    run(first)
    second = options("second", lora=True, adapter=first.output, max_steps=1, learning_rate=1e-9)
    run(second)
    before, after = weights_of(Path(first.output)), weights_of(Path(second.output))
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(before[name], after[name], atol=1e-6, rtol=0)


def rates_of(opts):
    lines = (Path(opts.output) / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [record["learning_rate"] for record in found if "learning_rate" in record]


def test_wsd_warms_up_stays_and_halves(options):
    """MiniCPM's schedule, arXiv 2404.06395, equation 1."""
    opts = options(
        schedule="wsd", max_steps=10, warmup=2.0, decay=4.0, half_life=2.0, save_every=10
    )
    run(opts)
    shares = [0, 0.5, 1, 1, 1, 1, 1, 0.5**0.5, 0.5, 0.5**1.5]
    assert rates_of(opts) == pytest.approx([1e-3 * share for share in shares])


def test_wsd_goes_on_at_the_rate_of_its_step(options):
    whole = options("whole", schedule="wsd", decay=0.5, max_steps=6)
    run(whole)
    part = options("part", schedule="wsd", decay=0.5, max_steps=6)
    run(part)
    out = Path(part.output)
    for path in (out / "report.json", out / "model.safetensors"):
        path.unlink()
    shutil.rmtree(out / "checkpoint-6")
    run(part)
    assert rates_of(part)[-6:] == pytest.approx(rates_of(whole))
    ends = (weights_of(Path(opts.output)) for opts in (whole, part))
    first, second = ends
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_decay_longer_than_the_run_is_refused(options):
    for schedule in ("wsd", "warmup_stable_decay"):
        with pytest.raises(ArgumentError, match="decay 3 of 4 steps"):
            run(options(schedule=schedule, warmup=2.0, decay=3.0))


def test_the_last_step_is_told_however_rarely_the_others_are(options):
    opts = options(log_every=3)
    run(opts)
    lines = (Path(opts.output) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records if "loss" in record] == [1, 3, 4]
    report = json.loads((Path(opts.output) / "report.json").read_text())
    assert report["loss"] == records[-1]["loss"]
