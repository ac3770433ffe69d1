"""A head that is spread over processes, and one of them without a target."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


@pytest.mark.slow
@pytest.mark.parametrize("group", ["own", "shared"])
def test_a_spread_head_has_the_gradients_of_one_process(group):
    done = subprocess.run(
        [*_TORCHRUN, "--nproc-per-node", "2", "-m", "tests.model.sharded", group],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("DIFFERENCE")] or [done.stderr]
    _, count, difference = line.split()
    assert int(count) > 20
    assert float(difference) < 1e-5
