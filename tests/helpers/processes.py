"""Commands in several processes, which end with the test."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def run_to_the_end(
    words: Sequence[str], *, timeout: float = 600, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command on one thread with this package. Where it takes longer than `timeout` seconds,
    all that it has started is killed: workers of a launcher outlive it otherwise, and wait for each
    other for ever.

    Raises:
        AssertionError: it did not end in time; with the end of what it has said.
    """
    environment: Mapping[str, str] = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"not done in {timeout} s:\n{out[-1000:]}{err[-3000:]}") from None
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)
