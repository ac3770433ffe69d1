"""Every recorded case of the nine models: what the released code computed, computed here.

    pytest tests/replay                       the recordings of the repository
    pytest tests/replay --golden FOLDER       recordings from elsewhere, in the same formats

Every recorded value is compared, or the case fails naming it.
"""

import pytest

from .kinds import replay
from .recording import Case

NOT_IMPLEMENTED = {
    "sft_preprocess": "there is no fine-tuning of the text models yet",
    "dpo_loss": "there is no training on preferences yet",
    "wsd_schedule": "there is no schedule with a stable phase yet",
}


def test_replay(case: Case) -> None:
    if case.kind in NOT_IMPLEMENTED:
        pytest.skip(f"{case.id}: {NOT_IMPLEMENTED[case.kind]}")
    comparison = replay(case)
    assert not comparison.failures, "\n  ".join([case.id, *comparison.failures])
    assert comparison.compared
