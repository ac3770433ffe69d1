"""Models that are loaded when they are asked for, within a budget."""

import asyncio
import threading

import pytest

from minicpmv.serve.errors import ApiError
from minicpmv.serve.registry import Registry

SIZES = {"small": 10, "middle": 20, "large": 40, "huge": 1000}


class Model:
    def __init__(self, place):
        self.place = place
        self.is_closed = False

    def close(self):
        self.is_closed = True


class Shelf:
    """A registry of models that take `SIZES`; `loads` are the places that were loaded."""

    def __init__(self, budget=None, places=None):
        self.loads = []
        self.breaks = None
        self.go = threading.Event()
        self.go.set()
        places = places or {name: name for name in SIZES}
        self.registry = Registry(places, self.load, lambda place, model: SIZES[place], budget)

    def load(self, place):
        self.go.wait()
        self.loads.append(place)
        if self.breaks is not None:
            raise self.breaks
        return Model(place)

    async def touch(self, name):
        async with self.registry.use(name) as model:
            return model

    @property
    def held(self):
        return {name for name, entry in self.registry.entries.items() if entry.model is not None}


def test_a_model_is_loaded_once_for_all_that_ask_at_first():
    async def run():
        shelf = Shelf()
        shelf.go.clear()
        asking = [asyncio.create_task(shelf.touch("small")) for _ in range(5)]
        await asyncio.sleep(0)
        asking[0].cancel()  # what the others wait for goes on
        shelf.go.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert len({id(model) for model in found[1:]}) == 1
        assert shelf.loads == ["small"]
        assert shelf.registry.entry("small").users == 0

    asyncio.run(run())


def test_names_of_one_place_share_its_model():
    async def run():
        shelf = Shelf(places={"a": "small", "b/c": "small"})
        assert await shelf.touch("a") is await shelf.touch("b/c")
        assert shelf.loads == ["small"]

    asyncio.run(run())


def test_the_one_that_rested_longest_is_unloaded_first():
    async def run():
        shelf = Shelf(budget=60)
        small, middle = await shelf.touch("small"), await shelf.touch("middle")
        await shelf.touch("small")
        await shelf.touch("large")
        assert shelf.held == {"small", "large"}
        assert (small.is_closed, middle.is_closed) == (False, True)
        assert await shelf.touch("middle") is not middle
        assert shelf.held == {"large", "middle"}

    asyncio.run(run())


def test_a_model_that_answers_is_not_unloaded():
    async def run():
        shelf = Shelf(budget=50)
        async with shelf.registry.use("middle") as model:
            with pytest.raises(ApiError) as caught:
                await shelf.touch("large")
            assert caught.value.status == 503
            assert caught.value.retry_after
            assert not model.is_closed
        await shelf.touch("large")
        assert shelf.held == {"large"}

    asyncio.run(run())


def test_a_model_that_can_never_fit_unloads_nothing():
    async def run():
        shelf = Shelf(budget=50)
        await shelf.touch("small")
        with pytest.raises(ApiError) as caught:
            await shelf.touch("huge")
        assert (caught.value.status, caught.value.code) == (400, "model_too_large")
        assert "1,000 bytes" in caught.value.message
        assert "50 (--memory-budget)" in caught.value.message
        assert shelf.held == {"small"}

    asyncio.run(run())


def test_after_a_failure_the_next_request_tries_again():
    async def run():
        shelf = Shelf()
        shelf.breaks = OSError("gone")
        for _ in range(2):
            with pytest.raises(ApiError, match="'small' cannot be loaded") as caught:
                await shelf.touch("small")
            assert isinstance(caught.value.__cause__, OSError)
        shelf.breaks = None
        await shelf.touch("small")
        assert shelf.loads == ["small"] * 3

    asyncio.run(run())


def test_closing_unloads_everything():
    async def run():
        shelf = Shelf()
        models = [await shelf.touch(name) for name in ("small", "large")]
        await shelf.registry.close()
        assert all(model.is_closed for model in models)
        assert shelf.held == set()

    asyncio.run(run())


def test_an_unknown_name_is_told_with_those_that_are_known():
    with pytest.raises(
        ApiError, match=r"'tiny' is not served here\. Served: small, middle"
    ) as caught:
        Shelf().registry.entry("tiny")
    assert caught.value.status == 404
