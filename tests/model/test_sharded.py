"""A head that is spread over processes, and one of them without a target."""

import pytest

from ..helpers.processes import TORCHRUN, run_to_the_end


@pytest.mark.slow
@pytest.mark.parametrize("group", ["own", "shared"])
def test_a_spread_head_has_the_gradients_of_one_process(group):
    done = run_to_the_end([*TORCHRUN, "--nproc-per-node", "2", "-m", "tests.model.sharded", group])
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("DIFFERENCE")]
    _, count, difference = line.split()
    assert int(count) > 20
    assert float(difference) < 1e-5
