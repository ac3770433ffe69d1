"""Whether results depend on what is computed before and beside them.

Libraries choose how they add by the number of rows and threads. In float32 the last digit differs;
in bfloat16 two tokens that are nearly equally likely change places now and then, and an answer is
another one beside other requests. On some processors sums are added in one order whatever comes
beside: that is tried here, not assumed.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..kernels.openmp import computing_with
from .attention import Span
from .block_store import BLOCK, BlockStore
from .decoder import Decoder
from .vision import VisionEncoder

_PROMPT = 3 * BLOCK + 13
_STEPS = 16
_OTHERS = 14  # rows beside: more than the functions for a few rows take


@torch.inference_mode()
def is_invariant(model: Any) -> bool:
    """Whether a model gives the same bits for a sequence alone and among others, with its prompt
    whole and in pieces, and with one thread and all; and for a picture with one thread and all.

    What is computed is random; the time is that of some short prompts.

    Args:
        model: loaded, with random or trained weights.
    """
    if Decoder.why_not(model) is not None:
        return False
    decoder = Decoder(model)
    generator = torch.Generator().manual_seed(0)
    shape = (_PROMPT + _STEPS, decoder.hidden_size)
    scale = model.get_input_embeddings().weight.float().std().item()
    embeds, others = (
        (torch.randn(shape, generator=generator) * scale).to(decoder.dtype) for _ in range(2)
    )
    found = zip(_alone(decoder, embeds), _among(decoder, embeds, others), strict=True)
    return all(torch.equal(*pair) for pair in found) and _sees_alike(model, generator)


def _alone(decoder: Decoder, embeds: torch.Tensor) -> list[torch.Tensor]:
    """Logits of the end of the prompt and of each step, (1 + steps, vocabulary), then keys and
    values of each layer, whose differences may be lost on the way to a few rounded logits."""
    store, (blocks, *_) = _room(decoder, 1)
    spans = [Span(0, _PROMPT, blocks, is_prompt=True)]
    found = [decoder.forward(embeds[:_PROMPT], spans, store, [_PROMPT - 1])]
    for place in range(_PROMPT, len(embeds)):
        spans = [Span(place, 1, blocks)]
        found.append(decoder.forward(embeds[place : place + 1], spans, store, [0]))
    return [torch.cat(found), *_states(store, blocks)]


def _among(decoder: Decoder, embeds: torch.Tensor, others: torch.Tensor) -> list[torch.Tensor]:
    """The same in pieces beside other sequences, with one thread."""
    store, (blocks, *tables) = _room(decoder, 1 + _OTHERS)
    found = []
    with computing_with(1):
        start = 0
        for number, length in enumerate((2 * BLOCK, 5, _PROMPT - 2 * BLOCK - 6, 1)):
            beside = [Span(number, 1, table) for table in tables]
            rows = others[number : number + 1].expand(len(tables), -1)
            spans = [*beside, Span(start, length, blocks, is_prompt=True)]
            batch = torch.cat((rows, embeds[start : start + length]))
            logits = decoder.forward(batch, spans, store, [*range(len(tables)), len(batch) - 1])
            start += length
        found.append(logits[-1:])
        for place in range(_PROMPT, len(embeds)):
            number += 1
            spans = [Span(place, 1, blocks), *(Span(number, 1, table) for table in tables)]
            rows = others[number : number + 1].expand(len(tables), -1)
            batch = torch.cat((embeds[place : place + 1], rows))
            found.append(decoder.forward(batch, spans, store, range(len(spans)))[:1])
    return [torch.cat(found), *_states(store, blocks)]


def _states(store: BlockStore, blocks: list[int]) -> list[torch.Tensor]:
    """Keys and values of each layer: (tokens, kv_heads, head_dim)."""
    parts = (*store.keys, *store.values)
    return [part[blocks].flatten(0, 1)[: _PROMPT + _STEPS] for part in parts]


def _room(decoder: Decoder, number: int) -> tuple[BlockStore, Sequence[list[int]]]:
    """Keys and values of so many sequences, each in blocks that follow each other."""
    each = -(-(_PROMPT + _STEPS) // BLOCK)
    shape = (decoder.num_layers, decoder.num_kv_heads, decoder.head_dim)
    store = BlockStore(*shape, decoder.dtype, decoder.device, number * each)
    return store, [list(range(i * each, (i + 1) * each)) for i in range(number)]


def _sees_alike(model: Any, generator: torch.Generator) -> bool:
    """Whether a picture of two slices gives the same bits with one thread and with all."""
    if not hasattr(model, "get_image_features"):
        return True
    encoder = VisionEncoder(model)
    config = model.config.vision_config
    side = max(config.patch_size, min(config.image_size, 16 * config.patch_size))
    side //= config.patch_size
    sizes = torch.tensor([[side, side]] * 2)
    width = config.patch_size * side * side
    pixels = torch.rand((2, 3, config.patch_size, width), generator=generator) * 2 - 1
    features = encoder.encode(pixels, sizes)
    with computing_with(1):
        return torch.equal(features, encoder.encode(pixels, sizes))
