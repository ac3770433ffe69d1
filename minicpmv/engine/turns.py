"""The inputs of a later turn: features and keys of earlier ones, pixels only of what is new."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch

from .cache import Medium, PromptCache
from .pictures import digest, frames_of
from .plan import GenerationPlan
from .protocols import CausalModel
from .request import Messages, media_of


def cached_inputs(
    cache: PromptCache,
    model: CausalModel,
    inputs: dict[str, Any],
    messages: Messages,
    plan: GenerationPlan,
    pixels_of: Callable[[list[dict[str, Any]]], Any],
) -> Callable[[], dict[str, Any]]:
    """A function that makes the inputs of `generate`, computing what the cache does not have.

    Args:
        inputs: of the whole conversation, without pixels.
        messages: it; its pictures are PIL images.
        pixels_of: makes `pixel_values` and `target_sizes` of blocks.
    """
    blocks = list(media_of(messages))
    media: list[Medium] = []
    encode: Callable[[Sequence[int]], list[torch.Tensor]] = lambda numbers: []  # noqa: E731
    if blocks:
        media, encode = _media(model, inputs, blocks, pixels_of)
    return lambda: cache.prefill(model, inputs, media, encode, plan.num_beams)


def _media(
    model: CausalModel,
    inputs: dict[str, Any],
    blocks: list[dict[str, Any]],
    pixels_of: Callable[[list[dict[str, Any]]], Any],
) -> tuple[list[Medium], Callable[[Sequence[int]], list[torch.Tensor]]]:
    """The blocks as media, and the function that encodes those with some numbers."""
    slices = iter(inputs["slices_per_image"].tolist())
    counts = [sum(next(slices) for _ in frames_of(block)) for block in blocks]
    sizes: torch.Tensor = inputs["target_sizes"]
    attends_padding = model.config.vision_config.attend_padding
    of_each = sizes.split(counts)
    lengths = [int(rows.prod(dim=1).max()) for rows in of_each]
    # Where padding takes part in attention, features depend on the longest slice of the prompt.
    longest = lengths.index(max(lengths)) if attends_padding else None
    media = [
        Medium(
            key=(
                digest(block),
                tuple(map(tuple, rows.tolist())),
                None if longest is None else lengths[longest],
            ),
            num_tokens=len(rows) * model.config.query_num,
        )
        for block, rows in zip(blocks, of_each, strict=True)
    ]

    def encode(numbers: Sequence[int]) -> list[torch.Tensor]:
        together = sorted({*numbers} if longest is None else {*numbers, longest})
        pixels = pixels_of([blocks[number] for number in together])
        with torch.inference_mode():
            features = model.get_image_features(
                pixels["pixel_values"].to(model.device),
                pixels["target_sizes"].to(model.device),
                return_dict=True,
            ).pooler_output  # (num_slices, query_num, hidden)
        edges = accumulate((counts[number] for number in together), initial=0)
        parts = {
            number: features[start:end].flatten(0, 1)
            for number, (start, end) in zip(together, pairwise(edges), strict=True)
        }
        return [parts[number] for number in numbers]

    return media, encode
