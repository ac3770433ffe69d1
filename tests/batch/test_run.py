"""Every row gets exactly one result, whatever workers do."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minicpmv.batch.journal import Journal
from minicpmv.batch.rows import Overview, Row
from minicpmv.batch.run import AllLostError, Batch
from minicpmv.batch.workers import Reply, WorkerBusyError, WorkerLostError


class Numbers:
    """Rows 0, 1 ..."""

    def __init__(self, count: int, faults: tuple[int, ...] = ()):
        self.count = count
        self.faults = faults

    def look(self, on_progress: Callable[[int, int], None]) -> Overview:
        return Overview(self.count)

    def rows(self) -> Iterator[Row]:
        for n in range(self.count):
            yield Row(n, str(n), "/", str(n).encode(), "broken" if n in self.faults else None)

    def names(self) -> Iterator[str | None]:
        yield from map(str, range(self.count))


class Squares:
    """A worker that answers n with its square, in random order.

    Args:
        lost: numbers with which it goes away, at each try.
        status: that it answers with instead of 200, by number.
        dies_after: answers, after which it is gone for ever.
    """

    def __init__(
        self,
        name: str = "w",
        lost: tuple[int, ...] = (),
        status: dict[int, int] | None = None,
        dies_after: int | None = None,
    ):
        self.name, self.capacity = name, 4
        self.lost, self.status, self.left = lost, status or {}, dies_after
        self.asked: Counter[int] = Counter()
        self.most = self.now = 0

    async def send(self, url: str, body: bytes) -> Reply:
        n = int(body)
        self.asked[n] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(random.Random(n).randrange(5)):
            await asyncio.sleep(0)
        self.now -= 1
        if self.left is not None:
            if self.left == 0:
                raise WorkerLostError(f"{self.name} is gone", counts=False)
            self.left -= 1
        if n in self.lost:
            raise WorkerLostError(f"{self.name} broke off", counts=True)
        return Reply(self.status.get(n, 200), json.dumps({"square": n * n}).encode(), f"id{n}")

    async def revive(self) -> None:
        if self.left == 0:
            await asyncio.Event().wait()


def answered(
    folder: Path, source: Numbers, workers: list[Any], done: tuple[int, ...] = (), **options: Any
) -> list[Any]:
    told: list[tuple[int, int]] = []

    async def run(journal: Journal) -> None:
        await Batch(
            source, journal, workers, on_progress=lambda *n: told.append(n), **options
        ).run()

    with Journal(folder / "out", {}, source.count) as journal:
        for index in done:
            journal.add(index, {"before": index}, failed=False)
        asyncio.run(run(journal))
        journal.finish()
    found = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    assert len(found) == source.count
    assert [count for count, _ in told] == list(range(len(done) + 1, source.count + 1))
    return found


def test_each_row_is_answered_once_in_order_and_many_at_a_time(tmp_path: Path) -> None:
    workers = [Squares(), Squares()]
    found = answered(tmp_path, Numbers(50), workers)
    assert [each["response"]["body"]["square"] for each in found] == [n * n for n in range(50)]
    assert [each["custom_id"] for each in found] == [str(n) for n in range(50)]
    assert found[3] == {
        "id": "batch_req_3",
        "custom_id": "3",
        "response": {"status_code": 200, "request_id": "id3", "body": {"square": 9}},
        "error": None,
    }
    assert workers[0].asked + workers[1].asked == Counter(range(50))
    assert all(worker.most == worker.capacity for worker in workers)


def test_only_rows_without_a_result_are_asked(tmp_path: Path) -> None:
    worker = Squares()
    found = answered(tmp_path, Numbers(6), [worker], done=(1, 4))
    assert sorted(worker.asked) == [0, 2, 3, 5]
    assert found[4] == {"before": 4}


def test_a_broken_row_is_a_result_and_is_not_asked(tmp_path: Path) -> None:
    worker = Squares()
    found = answered(tmp_path, Numbers(5, faults=(0, 3)), [worker])
    assert sorted(worker.asked) == [1, 2, 4]
    assert found[3]["response"] is None
    assert found[3]["error"] == {"code": "invalid_request", "message": "broken"}
    assert answered(tmp_path, Numbers(2, faults=(0, 1)), [worker])[1]["custom_id"] == "1"


def test_rows_of_a_worker_that_dies_go_to_the_others(tmp_path: Path) -> None:
    dying, other = Squares("dying", dies_after=7), Squares("other")
    found = answered(tmp_path, Numbers(40), [dying, other])
    assert [each["response"]["body"]["square"] for each in found] == [n * n for n in range(40)]


def test_a_lost_worker_whose_other_slots_are_idle_takes_no_rows_down(tmp_path: Path) -> None:
    class Dying(Squares):
        async def send(self, url: str, body: bytes) -> Reply:
            await asyncio.sleep(0)
            raise WorkerLostError("dead", counts=True)

        async def revive(self) -> None:
            await asyncio.Event().wait()

    found = answered(tmp_path, Numbers(2), [Dying("dead"), Squares("other")])
    assert [each["error"] for each in found] == [None, None]


def test_a_row_with_which_workers_go_away_fails_and_the_rest_goes_on(tmp_path: Path) -> None:
    worker = Squares("w", lost=(3,))
    found = answered(tmp_path, Numbers(9), [worker])
    assert worker.asked[3] == 3
    assert found[3]["error"]["code"] == "worker_lost"
    assert "w broke off, as did others before" in found[3]["error"]["message"]
    assert sum(each["error"] is None for each in found) == 8


def test_a_failure_of_the_server_is_tried_again_and_one_of_the_client_is_not(
    tmp_path: Path,
) -> None:
    worker = Squares(status={1: 500, 2: 400})
    found = answered(tmp_path, Numbers(4), [worker])
    assert (worker.asked[1], worker.asked[2]) == (3, 1)
    assert [each["response"]["status_code"] for each in found] == [200, 500, 400, 200]


def test_when_nobody_is_left_the_batch_ends_and_keeps_what_is_done(tmp_path: Path) -> None:
    with pytest.raises(
        AllLostError, match=r"nobody has answered: a, b\..*the same command goes on"
    ):
        answered(
            tmp_path,
            Numbers(20),
            [Squares("a", dies_after=3), Squares("b", dies_after=2)],
            patience_s=0.01,
        )
    with Journal(tmp_path / "out", {}, 20) as journal:
        assert journal.num_done == 5


@pytest.mark.parametrize(
    "page",
    [b"<html>login</html>", b"[1]", b'{"a":' + b"[" * 100_000],
    ids=["page", "list", "deep"],
)
def test_an_answer_that_is_no_json_is_a_failure(tmp_path: Path, page: bytes) -> None:
    class Page(Squares):
        async def send(self, url: str, body: bytes) -> Reply:
            return Reply(200, page)

    told: list[tuple[int, int]] = []
    with Journal(tmp_path / "out", {}, 1) as journal:
        asyncio.run(
            Batch(Numbers(1), journal, [Page()], on_progress=lambda *n: told.append(n)).run()
        )
        assert (journal.num_failed, told) == (1, [(1, 1)])
        journal.finish()
    found = json.loads((tmp_path / "out").read_text())
    assert found["error"]["code"] == "no_json"
    assert page[:12].decode() in found["error"]["message"]


def test_when_all_are_busy_for_too_long_the_batch_ends(tmp_path: Path) -> None:
    class Busy(Squares):
        async def send(self, url: str, body: bytes) -> Reply:
            await asyncio.sleep(0)
            raise WorkerBusyError(f"{self.name} is busy", counts=False)

    with pytest.raises(AllLostError, match=r"nothing was answered: w is busy\..*goes on"):
        answered(tmp_path, Numbers(3), [Busy()], patience_s=0.0)
    found = answered(tmp_path, Numbers(9), [Busy(), Squares("other")])
    assert [each["response"]["body"]["square"] for each in found] == [n * n for n in range(9)]
