"""A scheduler of fakes, whose steps the test makes itself."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import GenerationConfig

from minicpmv.engine.features import FeatureCache
from minicpmv.engine.kv_cache import BlockCache
from minicpmv.engine.limits import EngineLimits
from minicpmv.engine.plan import GenerationPlan
from minicpmv.engine.prompt import Medium, Prompt
from minicpmv.engine.scheduler import Scheduler
from minicpmv.engine.sequence import End, Generation

from .fake_model import FakeDecoder, FakeEncoder

END = 96  # a token that ends answers; the fake decoder never gives it
PIECE = 48


class Stage:
    """A scheduler of fakes, whose steps the test makes itself."""

    def __init__(self, max_tokens: int = 4096, **limits: Any):
        self.decoder, self.encoder = FakeDecoder(), FakeEncoder()
        size = self.decoder.store.bytes_per_block // 32
        self.cache = BlockCache(self.decoder.store, max_tokens * size, max_tokens * size)
        self.features = FeatureCache(1 << 20)
        chosen = EngineLimits(**{"piece_tokens": PIECE, **limits})
        decoder: Any = self.decoder
        encoder: Any = self.encoder
        self.scheduler = Scheduler(
            decoder, encoder, self.cache, self.features, chosen, nullcontext()
        )

    def submit(
        self,
        prompt: Sequence[int],
        num_tokens: int = 8,
        pictures: dict[int, Sequence[int]] | None = None,
        **settings: Any,
    ) -> Generation:
        """Pictures: by the place of their first placeholder, the number of each slice."""
        media, tokens = [], list(prompt)
        for place, slices in (pictures or {}).items():
            places = list(range(place, place + 2 * len(slices)))
            pixels = torch.tensor(slices), torch.ones(len(slices), 2, dtype=torch.long)
            media.append(Medium(repr(slices).encode(), places, pixels=pixels))
        shown: list[Any] = list(tokens)
        for medium in media:
            for position in medium.places:
                shown[position] = medium.key
        plan = GenerationPlan(
            config=GenerationConfig(max_new_tokens=num_tokens, eos_token_id=[END], **settings),
            repetition_penalty=1.0,
            seed=None,
        )
        generation = Generation(Prompt(tokens, shown, media), plan, time.perf_counter())
        self.scheduler._arrived.append(generation)
        return generation

    def run(self) -> None:
        while self.scheduler.step():
            pass


def outcome(generation: Generation) -> tuple[list[int], Any]:
    """The tokens of an answer, and how it ended."""
    tokens = []
    while True:
        event = generation.events.get_nowait()
        if isinstance(event, End):
            return tokens, event.reason
        if isinstance(event, BaseException):
            return tokens, event
        tokens.append(event.token)
