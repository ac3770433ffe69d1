"""A prompt as the scheduler sees it: token ids, and the pictures that stand at placeholders."""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .pictures import digest, frames_of

Pixels = tuple[torch.Tensor, torch.Tensor]  # pixel_values and target_sizes, a row per slice


@dataclass
class Medium:
    """A picture or a video of a prompt.

    Fields:
        key: equal for equal pixels that are cut and encoded in the same way; None is never equal.
        places: of its placeholders in the prompt.
        longest: patches that its slices are padded to, where padding takes part in attention.
        features: (len(places), hidden), once it is encoded.
        pixels: what it is encoded from; encoded: of its first slices, in pieces. Both are dropped
            when it is done.
        error: why it could not be encoded by a thread beside the scheduler's.
    """

    key: bytes | None
    places: Sequence[int]
    longest: int | None = None
    features: torch.Tensor | None = None
    pixels: Pixels | None = None
    encoded: list[torch.Tensor] = field(default_factory=list)
    error: Exception | None = None

    def copy(self) -> "Medium":
        """Another that is encoded, and let go of, by itself."""
        return replace(self, encoded=[])


@dataclass
class Prompt:
    """Token ids, and what is shown in them in prompt order.

    Fields:
        tokens: the ids, with the key of the medium in place of a placeholder: prompts that begin
            with the same tokens have the same keys and values there.
        can_share: False where a medium has no key.
    """

    ids: list[int]
    tokens: list[Hashable]
    media: list[Medium]

    @property
    def can_share(self) -> bool:
        return all(medium.key is not None for medium in self.media)


def prompt_of(ids: torch.Tensor, media: Sequence[Medium], weights: bytes) -> Prompt:
    """The prompt with these media.

    Args:
        ids: (1, seq).
        weights: those of the model, as `state.State` tells; keys of others are not its own.
    """
    plain = ids[0].tolist()
    tokens: list[Hashable] = list(plain)
    for medium in media:
        for place in medium.places:
            tokens[place] = medium.key
    tokens[0] = (weights, tokens[0])
    return Prompt(plain, tokens, list(media))


def places_of(mm_token_type_ids: torch.Tensor) -> list[int]:
    """Where the placeholders of a prompt are; the mask is (1, seq)."""
    places: list[int] = mm_token_type_ids[0].numpy().nonzero()[0].tolist()
    return places


def media_by_content(
    blocks: Sequence[dict[str, Any]],
    slices_per_image: Sequence[int],
    target_sizes: torch.Tensor,
    places: Sequence[int],
    tokens_per_slice: int,
    attends_padding: bool,
    weights: bytes,
) -> list[Medium]:
    """The pictures and videos of a conversation, each with a key of its content.

    Args:
        blocks: from `request.media_of`, with PIL images.
        slices_per_image: of every picture and frame.
        target_sizes: (num_slices, 2), of the whole prompt.
        places: of all placeholders.
        weights: those of the model, as `state.State` tells.
    """
    slices = iter(slices_per_image)
    counts = [sum(next(slices) for _ in frames_of(block)) for block in blocks]
    # Where padding takes part in attention, features depend on the longest slice of the prompt.
    longest = int(target_sizes.prod(dim=1).max()) if attends_padding and len(blocks) else None
    media, start = [], 0
    for block, sizes in zip(blocks, target_sizes.split(counts), strict=True):
        end = start + len(sizes) * tokens_per_slice
        key = hashlib.blake2b(weights + digest(block), digest_size=16)
        key.update(repr((sizes.tolist(), longest)).encode())
        media.append(Medium(key.digest(), places[start:end], longest))
        start = end
    return media
