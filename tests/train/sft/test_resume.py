"""A run that was killed and given again ends with the same weights, to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minicpmv.train.sft import callbacks, checkpoints
from minicpmv.train.sft.run import run

from ...helpers.micro import weights_of

LORA = {"lora": True, "lora_r": 4, "lora_alpha": 8.0, "lora_dropout": 0.3}
KINDS = {"full": {}, "lora": LORA, "accumulated": LORA | {"accumulation": 2}}


class Killed(BaseException):
    """Stands for a signal that nobody can catch."""


def same(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_run_killed_while_it_saves_ends_with_the_same_weights(kind, options, monkeypatch):
    changes = {"max_steps": 6, "save_every": 2, "samples": 1, "samples_every": 3, **KINDS[kind]}
    whole = options("whole", **changes)
    run(whole)

    mark = checkpoints.mark_complete

    def killed_at_4(checkpoint: Path, step: int) -> None:
        if step == 4:
            (checkpoint / "optimizer.pt").write_bytes(b"half")
            raise Killed
        mark(checkpoint, step)

    halved = options("halved", **changes)
    monkeypatch.setattr(callbacks.checkpoints, "mark_complete", killed_at_4)
    with pytest.raises(Killed):
        run(halved)
    monkeypatch.undo()
    run(halved)
    log = (Path(halved.output) / "log.txt").read_text()
    assert "checkpoint-4 was not finished and is thrown away" in log
    assert "going on from checkpoint-2" in log
    assert same(Path(whole.output), Path(halved.output))
    lines = (Path(halved.output) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_without_a_checkpoint_binds_nobody(options, monkeypatch):
    def killed(checkpoint: Path, step: int) -> None:
        raise Killed

    monkeypatch.setattr(callbacks.checkpoints, "mark_complete", killed)
    with pytest.raises(Killed):
        run(options())
    monkeypatch.undo()
    run(options(max_steps=2, seed=7))
    assert [s for s, _ in checkpoints.checkpoints_of(Path(options().output))] == [2]


def test_a_run_that_is_done_is_left_alone(options, capsys):
    opts = options(max_steps=1)
    run(opts)
    before = weights_of(Path(opts.output))
    run(opts)
    assert "is trained already" in capsys.readouterr().err
    after = weights_of(Path(opts.output))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_old_checkpoints_go_when_a_newer_one_is_whole(options):
    opts = options(max_steps=4, save_every=1, keep=2)
    run(opts)
    steps = [step for step, _ in checkpoints.checkpoints_of(Path(opts.output))]
    assert steps == [3, 4]


def test_a_changed_data_file_is_named(options, rows, tmp_path):
    data = rows.with_name("growing.json")
    data.write_bytes(rows.read_bytes())
    run(options(data=str(data), max_steps=1))
    data.write_text(json.dumps(json.loads(rows.read_text())[:5]))
    with pytest.raises(ValueError, match=r"a run with other data: .* has changed since"):
        run(options(data=str(data), max_steps=1))


@pytest.mark.slow
def test_kill_9_of_the_command(micro, rows, tmp_path):
    def command(name: str) -> list[str]:
        words = ["train", "sft", "--model", str(micro), "--data", str(rows), "--lora"]
        words += ["--max-length", "64", "--max-steps", "300", "--save-every", "5", "--samples", "0"]
        words += ["--log-every", "1", "--output", str(tmp_path / name), "--device", "cpu"]
        return [sys.executable, "-m", "minicpmv", *words]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, env=environment, capture_output=True)
    for kills in range(3):
        process = subprocess.Popen(
            command("killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        metrics = tmp_path / "killed" / "metrics.jsonl"
        wanted = 60 * (kills + 1)
        while not metrics.exists() or len(metrics.read_text().splitlines()) < wanted:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed"), check=True, env=environment, capture_output=True)
    assert same(tmp_path / "whole", tmp_path / "killed")
