"""The estimate of memory against what a run takes, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch

from minicpmv.adapters.parts import LoraSettings, Parts, apply_parts
from minicpmv.train.sft.estimate import estimate

from ...helpers.micro import write_rows
from ...helpers.tiny import tiny_model


def estimated(parts: Parts, **changes):
    model = apply_parts(tiny_model("2.6").to("meta"), parts, LoraSettings(r=4))
    settings = {
        "dtype": torch.bfloat16,
        "frozen_dtype": torch.bfloat16,
        "capacity": 256,
        "longest": 100,
        "slices": 0,
        "targets": 20,
        "checkpointing": False,
    }
    return estimate(model, **settings | changes)


def test_parts_are_counted_by_what_is_trained():
    full = estimated(Parts("full", True, False), frozen_dtype=torch.float32)
    lora = estimated(Parts("lora", True, False))
    assert full.parts["optimizer"] == 8 * full.num_trained
    assert full.parts["gradients"] == full.parts["trained weights, float32"] == 4 * full.num_trained
    assert lora.num_trained < full.num_trained
    assert lora.parts["frozen weights"] == 2 * (lora.num_parameters - lora.num_trained)
    assert "vision side" not in str(full.parts)
    live = estimated(Parts("full", True, True), slices=3)
    assert live.parts["activations of the vision side"] > 0


def test_checkpointing_and_spreading_take_less():
    parts = Parts("full", True, False)
    name = "activations of the language model"
    assert estimated(parts, checkpointing=True).parts[name] < estimated(parts).parts[name]
    spread = estimated(parts, num_devices=4, sharded=("gradients", "optimizer"))
    alone = estimated(parts)
    assert spread.parts["optimizer"] == alone.parts["optimizer"] // 4
    assert spread.parts["trained weights, float32"] == alone.parts["trained weights, float32"]
    assert "in all, per device" in alone.as_text()


def test_frozen_matrices_keep_no_inputs():
    name = "activations of the language model"
    full = estimated(Parts("full", True, False)).parts[name]
    lora = estimated(Parts("lora", True, False)).parts[name]
    assert lora < full
    everywhere = estimated(Parts("lora", True, "lora"), slices=1)
    assert everywhere.parts[name] == lora  # the tower's adapters see patches, not tokens
    tower = "activations of the vision side"
    whole = estimated(Parts("lora", True, True), slices=1).parts[tower]
    assert everywhere.parts[tower] > whole


def test_the_loss_counts_what_is_trained():
    few, all_tokens = (
        estimated(Parts("full", True, False), targets=count).parts["loss"] for count in (20, 256)
    )
    config = tiny_model("2.6").config.get_text_config()
    more = 4 * (256 - 20) * (3 * config.vocab_size + 2 * config.hidden_size)
    assert all_tokens - few == more
    assert estimated(Parts("full", True, False), targets=900).parts["loss"] == all_tokens


@pytest.mark.slow
@pytest.mark.parametrize("parts", [[], ["--lora"], ["--tune-vision"]])
def test_the_estimate_is_near_what_nano_takes(parts, tmp_path):
    data = write_rows(tmp_path / "rows", 60)
    words = [sys.executable, "-m", "minicpmv", "train", "sft", "--data", str(data), *parts]
    words += ["--output", str(tmp_path / "out"), "--max-steps", "3", "--device", "cpu"]
    subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    expected = report["estimate"]["total_bytes"]
    assert abs(report["peak_bytes"] / expected - 1) < 0.35, report
