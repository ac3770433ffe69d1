"""Requests come and go between steps, and every one gets the answer that it gets alone."""

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from minicpmv.engine.limits import QueueFullError
from minicpmv.engine.sequence import End, Generation

from ..helpers.fake_model import POISON, answer
from ..helpers.stage import PIECE, Stage, outcome


def shown(prompt: Sequence[int], pictures: dict[int, Sequence[int]]) -> list[int]:
    """The prompt as the decoder should see it."""
    numbers = list(prompt)
    for place, slices in pictures.items():
        for index, number in enumerate(slices):
            numbers[place + 2 * index : place + 2 * index + 2] = [number, number + 1]
    return numbers


@pytest.mark.parametrize("seed", range(40))
def test_everyone_gets_the_answer_that_they_get_alone(seed: int) -> None:
    """Random arrivals, lengths, shared beginnings, pictures, cancellations and failures, in
    little memory."""
    draw = random.Random(seed)
    stage = Stage(max_tokens=draw.choice([512, 1024, 4096]), max_running=draw.choice([2, 5, 64]))
    beginnings = [[draw.randrange(POISON) for _ in range(draw.randrange(1, 150))] for _ in "abc"]
    expected: list[tuple[Generation, list[int], Any]] = []
    for _ in range(draw.randrange(10, 40)):
        prompt = [*draw.choice(beginnings), *(draw.randrange(POISON) for _ in range(9))]
        prompt = prompt[draw.choice([0, 0, 0, 5]) :]
        pictures = {}
        if draw.random() < 0.4 and len(prompt) > 40:
            pictures = {draw.randrange(3): [draw.randrange(4) for _ in range(draw.randrange(1, 9))]}
        num_tokens = draw.randrange(1, 60)
        numbers = shown(prompt, pictures)
        kind = draw.choice(["good", "good", "good", "cancelled", "bad", "bad picture"])
        whole = answer(numbers, num_tokens)
        if kind == "bad":
            prompt = [*prompt, POISON, 1]
        elif kind == "bad picture" and pictures:
            pictures = {place: [*slices[:-1], POISON] for place, slices in pictures.items()}
        else:
            kind = "good" if kind == "bad picture" else kind
        generation = stage.submit(prompt, num_tokens, pictures)
        expected.append((generation, whole, kind))
        for _ in range(draw.choice([0, 0, 1, 3])):
            stage.scheduler.step()
        if kind == "cancelled":
            generation.cancel()
    stage.run()
    for generation, whole, kind in expected:
        tokens, end = outcome(generation)
        if kind == "good":
            assert (tokens, end) == (whole, "length")
        elif kind == "cancelled":
            assert tokens == whole[: len(tokens)]
        else:
            assert tokens == []
            assert isinstance(end, RuntimeError)
    stats = stage.cache.stats()
    assert stats["num_leases"] == 0
    assert stats["held_bytes"] == 0
    stage.cache.clear()
    assert stage.cache.stats()["idle_bytes"] == 0


def test_running_answers_wait_for_two_pieces_at_most() -> None:
    stage = Stage()
    running = stage.submit([1, 2, 3], 60)
    while running.first is None:
        stage.scheduler.step()
    stage.submit(list(range(80)) * 8, 2, {4: list(range(10))})
    last, gap, most = 0, 0, 0
    while stage.scheduler.step():
        pieces = len(stage.encoder.calls) + sum(
            any(span.length > 1 for span in spans) for spans in stage.decoder.calls
        )
        if running.new_ids[last:] or len(running.new_ids) == 60:
            most, last, gap = max(most, pieces - gap), len(running.new_ids), pieces
        if len(running.new_ids) == 60:
            break
    assert 0 < most <= 2
    assert max(span.length for spans in stage.decoder.calls[1:] for span in spans) <= PIECE


def test_a_shared_beginning_is_computed_once() -> None:
    stage = Stage()
    beginning = list(range(80)) * 4
    questions = [stage.submit([*beginning, number, 5], 3, {2: [1, 2, 3]}) for number in range(20)]
    stage.run()
    assert sum(stage.encoder.calls) == 3
    computed = sum(span.length for spans in stage.decoder.calls for span in spans)
    assert computed < len(beginning) + 20 * (2 + 32 + 3)
    numbers = shown([*beginning, 7, 5], {2: [1, 2, 3]})
    assert outcome(questions[7])[0] == answer(numbers, 3)
    again = stage.submit([*beginning, 7, 5], 3, {2: [1, 2, 3]})
    calls = len(stage.decoder.calls)
    stage.run()
    assert outcome(again)[0] == answer(numbers, 3)
    assert [span.length for span in stage.decoder.calls[calls]] == [1]
    assert sum(stage.encoder.calls) == 3


def test_what_does_not_fit_waits_in_order_or_is_refused() -> None:
    stage = Stage(max_tokens=128)
    order = []
    generations = [stage.submit([number] * 40, 30) for number in range(6)]
    for number, generation in enumerate(generations):
        generation.on_end = lambda number=number: order.append(number)
    never = stage.submit([1] * 100, 200)
    stage.run()
    assert order == list(range(6))
    for number, generation in enumerate(generations):
        assert outcome(generation)[0] == answer([number] * 40, 30)
    assert "limit" in str(outcome(never)[1])


def test_a_full_queue_refuses() -> None:
    stage = Stage(max_running=1, max_waiting=1)
    stage.submit([1], 5)
    stage.submit([2], 5)
    with pytest.raises(QueueFullError, match="max_waiting 1"):
        stage.scheduler.submit(stage.submit([3], 5))


def test_an_answer_ends_in_time() -> None:
    stage = Stage()
    late = stage.submit([1, 2], 50, max_time=1e-9)
    good = stage.submit([1, 2], 5)
    stage.run()
    assert outcome(late)[1] == "time"
    assert outcome(good) == (answer([1, 2], 5), "length")


@pytest.mark.parametrize("right", [True, False])
def test_guesses_change_nothing_but_the_number_of_steps(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    whole = answer([5, 6, 7], 30)
    generation = stage.submit([5, 6, 7], 30)
    other = stage.submit([5, 6], 30)

    def propose() -> list[int]:
        done = len(generation.new_ids)
        guesses = whole[done : done + 4] if right else [89, 88]
        return guesses[: 30 - done - 1]

    monkeypatch.setattr(generation, "guesses", propose)
    stage.run()
    assert outcome(generation) == (whole, "length")
    assert outcome(other)[0] == answer([5, 6], 30)
    guessed = stage.scheduler.stats()["tokens"]["guessed"]
    assert guessed > 20 if right else guessed == 0


def test_closing_ends_what_runs_and_frees_the_memory() -> None:
    stage = Stage()
    running, waiting = stage.submit([1, 2], 500), stage.submit([3] * 500, 500)
    for _ in range(3):
        stage.scheduler.step()
    stage.scheduler.close()
    assert not stage.scheduler.step()
    for generation in (running, waiting):
        assert "closed" in str(outcome(generation)[1])
    assert stage.cache.stats()["held_bytes"] == 0
    with pytest.raises(ValueError, match="closed"):
        stage.scheduler.submit(stage.submit([1], 1))


def test_the_thread_answers_and_lets_the_scheduler_go() -> None:
    stage = Stage()
    generations = [stage.submit([number], 5) for number in range(9)]
    stage.scheduler._arrived.clear()
    for generation in generations:
        stage.scheduler.submit(generation)
    for number, generation in enumerate(generations):
        tokens = []
        while not isinstance(event := generation.events.get(timeout=30), End):
            assert not isinstance(event, BaseException)
            tokens.append(event.token)
        assert tokens == answer([number], 5)
    stage.scheduler.close()
    assert stage.scheduler._thread is None


def test_time_in_the_queue_ends_when_memory_is_given() -> None:
    stage = Stage(max_running=1)
    first, second = stage.submit([1, 2, 3], 4), stage.submit([4, 5, 6], 4)
    first.submitted = second.submitted = time.perf_counter()
    assert first.queue_seconds == second.queue_seconds == 0
    stage.run()
    assert second.queue_seconds > first.queue_seconds > 0
    assert second.first is not None
    assert second.submitted + second.queue_seconds <= second.first


def test_tokens_are_told_while_the_next_ones_are_computed() -> None:
    stage = Stage()
    one, other = stage.submit([1, 2, 3], 4), stage.submit([4, 5], 2)
    told: list[tuple[int, int]] = []
    forward = stage.decoder.forward

    def watched(embeds: Any, spans: Any, store: Any, keep: Any, at_work: Any) -> Any:
        before = one.events.qsize()
        found = forward(embeds, spans, store, keep, at_work)
        told.append((before, one.events.qsize()))
        return found

    stage.decoder.forward = watched  # type: ignore[method-assign]
    stage.scheduler.step()
    assert (one.events.qsize(), other.events.qsize()) == (0, 0)  # the next step is to come
    stage.scheduler.step()
    assert (one.events.qsize(), other.events.qsize()) == (1, 3)  # the second is complete
    stage.submit([7] * 9, 1)
    stage.run()
    # The third step reads a prompt, too: what has come is told before.
    assert told == [(0, 0), (0, 1), (2, 2), (2, 3)]
    assert outcome(one) == (answer([1, 2, 3], 4), "length")
