"""Answers to one prompt, submitted together: the first computes it, the others go on from there."""

import random

import pytest

from minicpmv.engine.sequence import Generation

from ..helpers.fake_model import POISON, answer
from ..helpers.stage import Stage, outcome


def family(stage: Stage, prompt: list[int], sizes: list[int]) -> list[Generation]:
    generations = [stage.submit(prompt, size) for size in sizes]
    for generation in generations[1:]:
        generation.elder = generations[0]
    return generations


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 65, 100, 400])
def test_the_prompt_is_computed_once(length: int) -> None:
    stage = Stage()
    prompt = [(3 * number) % 80 for number in range(length)]
    generations = family(stage, prompt, [5, 1, 9])
    stage.run()
    for generation, size in zip(generations, [5, 1, 9], strict=True):
        assert outcome(generation) == (answer(prompt, size), "length")
    computed = sum(span.length for spans in stage.decoder.calls for span in spans)
    assert computed == length + (1 + 1) + (4 + 0 + 8)
    assert [generation.num_cached for generation in generations[1:]] == [length - 1] * 2


@pytest.mark.parametrize("seed", range(20))
def test_families_among_others_that_come_and_go(seed: int) -> None:
    draw = random.Random(seed)
    stage = Stage(max_tokens=draw.choice([256, 512, 4096]), max_running=draw.choice([1, 3, 64]))
    expected: list[tuple[Generation, list[int], bool]] = []
    for _ in range(12):
        prompt = [draw.randrange(POISON) for _ in range(draw.randrange(1, 120))]
        is_bad = draw.random() < 0.2
        if is_bad:
            prompt = [*prompt, POISON, 1]
        sizes = [draw.randrange(1, 40) for _ in range(draw.randrange(1, 5))]
        generations = family(stage, prompt, sizes)
        expected += [
            (generation, [] if is_bad else answer(prompt, size), is_bad)
            for generation, size in zip(generations, sizes, strict=True)
        ]
        for _ in range(draw.randrange(4)):
            stage.scheduler.step()
        if draw.random() < 0.4:
            draw.choice(generations[:2]).cancel()
    stage.run()
    for generation, whole, is_bad in expected:
        tokens, end = outcome(generation)
        if generation.is_cancelled:
            assert tokens == whole[: len(tokens)]
        elif is_bad:
            assert isinstance(end, RuntimeError)
        else:
            assert (tokens, end) == (whole, "length")
    assert stage.cache.stats()["held_bytes"] == 0
