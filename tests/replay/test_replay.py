"""Every recorded case of the nine models: what the released code computed, computed here.

    pytest tests/replay                       the recordings of the repository
    pytest tests/replay --golden FOLDER       recordings from elsewhere, in the same formats

Every recorded value is compared, or the case fails naming it.
"""

from .kinds import replay
from .recording import Case


def test_replay(case: Case) -> None:
    comparison = replay(case)
    assert not comparison.failures, "\n  ".join([case.id, *comparison.failures])
    assert comparison.compared
