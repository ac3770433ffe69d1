"""Two processes train on pairs as one does: the same losses, the same weights."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ...helpers.micro import losses_of
from ...helpers.processes import TORCHRUN, run_to_the_end


@pytest.mark.slow
def test_two_processes_and_accumulation_over_two_rows_are_one(
    micro: Path, pairs: Path, tmp_path: Path
) -> None:
    words = ["-m", "minicpmv", "train", "dpo", "--model", str(micro), "--data", str(pairs)]
    words += ["--max-length", "256", "--max-steps", "5", "--samples", "0", "--log-every", "1"]
    words += ["--dtype", "fp32", "--device", "cpu", "--learning-rate", "1e-3", "--warmup", "0"]
    words += ["--eval-data", str(pairs), "--eval-every", "5", "--sft-weight", "0.1"]
    one, two = tmp_path / "one", tmp_path / "two"
    single = [sys.executable, *words, "--accumulation", "2", "--output", str(one)]
    done = run_to_the_end(single)
    assert done.returncode == 0, done.stderr[-3000:]
    done = run_to_the_end([*TORCHRUN, "--nproc-per-node", "2", *words, "--output", str(two)])
    assert done.returncode == 0, done.stderr[-3000:]
    torch.testing.assert_close(losses_of(one), losses_of(two), atol=2e-5, rtol=1e-5)
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)
