"""Two processes train as one does: the same losses, the same weights."""

import sys

import pytest
import torch

from ...helpers.micro import losses_of, weights_of
from ...helpers.processes import TORCHRUN, run_to_the_end


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["--lora", "--lora-dropout", "0"], ["--tune-vision"]])
def test_two_processes_and_accumulation_over_two_rows_are_one(parts, micro, rows, tmp_path):
    words = ["-m", "minicpmv", "train", "sft", "--model", str(micro), "--data", str(rows), *parts]
    words += ["--max-length", "64", "--max-steps", "5", "--samples", "0", "--log-every", "1"]
    words += ["--dtype", "fp32", "--device", "cpu", "--learning-rate", "1e-3", "--warmup", "0"]
    words += ["--eval-data", str(rows), "--eval-every", "5"]
    one, two = tmp_path / "one", tmp_path / "two"
    single = [sys.executable, *words, "--accumulation", "2", "--output", str(one)]
    done = run_to_the_end(single)
    assert done.returncode == 0, done.stderr[-3000:]
    done = run_to_the_end([*TORCHRUN, "--nproc-per-node", "2", *words, "--output", str(two)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("step 5/5  loss") == 1  # one of them speaks
    torch.testing.assert_close(losses_of(one), losses_of(two), atol=2e-5, rtol=1e-5)
    first, second = weights_of(one), weights_of(two)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)
