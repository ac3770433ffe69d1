"""Weights that FSDP2 spreads over two processes by our recipe train as in one, are resumed to the
bit, and are written whole."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

import minicpmv

from ...helpers.micro import losses_of, weights_of
from ...helpers.processes import ROOT, run_to_the_end

PARTS = {"full": [], "lora": ["--lora", "--lora-dropout", "0"]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(PARTS))
def test_fsdp2_is_as_one_process_and_goes_on(
    kind: str, micro: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = (ROOT / "recipes" / "fsdp2.yaml").read_text()
    recipe = recipe.replace("num_processes: 8", "num_processes: 2")
    config = tmp_path / "fsdp2.yaml"
    recipe = recipe.replace("mixed_precision: bf16", 'mixed_precision: "no"')
    config.write_text(recipe + "use_cpu: true\n")  # as a flag it turns FSDP off
    words = ["train", "sft", "--model", str(micro), "--data", str(rows), *PARTS[kind]]
    words += ["--max-length", "64", "--max-steps", "4", "--samples", "0", "--log-every", "1"]
    words += ["--dtype", "fp32", "--device", "cpu", "--learning-rate", "1e-3", "--warmup", "0"]
    words += ["--eval-data", str(rows), "--eval-every", "4", "--save-every", "2"]
    one, two, again = tmp_path / "one", tmp_path / "two", tmp_path / "again"
    done = run_to_the_end(
        [sys.executable, "-m", "minicpmv", *words, "--accumulation", "2", "--output", str(one)]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", str(config), "-m", "tests.train.sft.fsdp_on_cpu"]

    def spread(folder: Path) -> None:
        done = run_to_the_end([*launch, *words, "--output", str(folder)])
        assert done.returncode == 0, done.stderr[-3000:]

    spread(two)
    torch.testing.assert_close(losses_of(one), losses_of(two), atol=2e-5, rtol=1e-5)
    first, second = weights_of(one), weights_of(two)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)
    assert isinstance(minicpmv.load(str(two), "cpu").ask("Say 1.", max_new_tokens=2).text, str)

    shutil.copytree(two, again)  # as a kill after the first checkpoint would have left it
    shutil.rmtree(again / "checkpoint-4")
    for path in again.glob("*"):
        if path.suffix == ".safetensors" or path.name == "report.json":
            path.unlink()
    spread(again)
    assert "going on from checkpoint-2" in (again / "log.txt").read_text()
    resumed = weights_of(again)
    assert all(torch.equal(second[name], resumed[name]) for name in second)
