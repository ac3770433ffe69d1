"""How many processes `minicpmv evaluate` starts where nobody says."""

import pytest

from minicpmv.batch import sizing
from minicpmv.cli.evaluation import _num_workers


class Job:
    def __init__(self, number):
        self.items = range(number)


@pytest.mark.parametrize(
    ("numbers", "options", "expected"),
    [
        ([399], {}, 1),
        ([400], {}, 2),
        ([300, 300], {}, 3),
        ([10**9], {}, 4),
        ([1000], {"adapter": "folder"}, 1),
        ([1000], {"device_map": "auto"}, 1),
        ([1000], {"device": "cuda"}, 1),
    ],
)
def test_a_small_model_gets_a_process_for_each_core_and_200_items(
    monkeypatch, numbers, options, expected
):
    monkeypatch.setattr(sizing, "num_cores", lambda: 4)
    monkeypatch.setattr(sizing, "available_memory", lambda: 64 << 30)
    monkeypatch.setattr(sizing, "is_small", lambda place, device: device in ("auto", "cpu"))
    assert _num_workers("nano", options, [Job(number) for number in numbers]) == expected


def test_every_other_model_stays_in_this_process(monkeypatch):
    monkeypatch.setattr(sizing, "is_small", lambda place, device: False)
    assert _num_workers("large", {}, [Job(10_000)]) == 1
