"""A seed belongs to its request: alone, in a batch, beside other threads; nobody else's numbers."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from minicpmv import Chat

WILD = {"sampling": True, "temperature": 5.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 12}
BEAMS = {"sampling": True, "num_beams": 2, "max_new_tokens": 8}


@pytest.mark.parametrize("options", [WILD, BEAMS, WILD | {"min_p": 0.01, "top_k": 20}])
def test_the_same_seed_is_the_same_answer(seeing: Chat, options: dict[str, Any]) -> None:
    def ask(seed: int) -> str:
        return str(seeing.ask("Tell me a story.", seed=seed, **options))

    alone = {seed: ask(seed) for seed in (1, 2, 3)}
    assert len(set(alone.values())) > 1
    with ThreadPoolExecutor(3) as threads:
        for _ in range(2):
            assert list(threads.map(ask, [3, 1, 3, 2])) == [alone[n] for n in (3, 1, 3, 2)]
    others = ["Hello", "How many legs has a spider, and why?"]
    batch = seeing.batch(["Tell me a story.", *others], seed=2, **options)
    assert batch == [alone[2], *(seeing.ask(other, seed=2, **options) for other in others)]
    assert "".join(seeing.stream("Tell me a story.", seed=3, **options)) == alone[3]


@pytest.mark.parametrize("options", [WILD, BEAMS])
def test_random_numbers_of_the_caller_are_left_alone(seeing: Chat, options: dict[str, Any]) -> None:
    before = torch.random.get_rng_state()
    seeing.ask("Tell me a story.", seed=3, **options)
    list(seeing.stream("Tell me a story.", seed=3, **options))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_seed_draws_what_torch_draws_after_it(chat: Chat) -> None:
    """As the recorded answers were drawn."""
    torch.manual_seed(11)
    drawn = chat.ask("Tell me a story.", **WILD)
    assert chat.ask("Tell me a story.", seed=11, **WILD) == drawn


def test_options_of_sampling_keep_their_meaning(seeing: Chat) -> None:
    likeliest = seeing.ask("Hi", sampling=False, num_beams=1, max_new_tokens=6)
    options = WILD | {"max_new_tokens": 6, "repetition_penalty": 1.0}
    greedy = seeing.ask("Hi", sampling=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=6)
    assert seeing.ask("Hi", seed=1, **options | {"top_k": 1}) == greedy
    assert seeing.ask("Hi", seed=1, **options | {"top_p": 1e-6}) == greedy
    assert seeing.ask("Hi", seed=1, **options | {"min_p": 1.0}) == greedy
    assert likeliest.num_output_tokens
