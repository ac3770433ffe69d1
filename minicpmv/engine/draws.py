"""One token of each row of logits: the likeliest, or one drawn at random.

The tokens are those that transformers' warpers and `torch.multinomial` give, to the bit, for less
work: what `top_k` leaves out is not sorted, normalised sums are taken over whole rows, so that they
are rounded in the same way, and on the CPU the random numbers of tokens that cannot be drawn are
made (the generator has to move on) but not turned into exponential ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers.generation import MinPLogitsWarper, TopPLogitsWarper

from ..kernels import random_bits

_MOST_KEPT = 1024  # tokens; with a larger top_k whole rows cost less
_BLOCK = 128  # logits
_LONG = 8192  # scores, of which fewer are worth one operation only
_AT_ONCE = 1 << 18  # logits
_FRACTION_BITS = 53  # of a random double
_UNUSED: Any = None  # ids, which these warpers do not look at


@dataclass(frozen=True)
class Draw:
    """From which tokens one is drawn; None is for a step that is left out."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


def likeliest(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest score of each row (rows,) and its first place (rows,).

    A row with a NaN has that for its largest score, and any place.
    """
    rows, length = scores.shape
    num_blocks = length // _BLOCK
    if not scores.is_cpu or length < _LONG:
        return scores.max(dim=-1)
    # The CPU finds a maximum ten times faster than its place.
    blocks = scores[:, : num_blocks * _BLOCK].unflatten(-1, (num_blocks, _BLOCK))
    largest, block = blocks.amax(dim=-1).max(dim=-1)  # (rows,)
    place = blocks[torch.arange(rows), block].argmax(dim=-1) + block * _BLOCK
    if num_blocks * _BLOCK == length:
        return largest, place
    of_rest, place_in_rest = scores[:, num_blocks * _BLOCK :].max(dim=-1)
    in_rest = of_rest > largest
    place = torch.where(in_rest, place_in_rest + num_blocks * _BLOCK, place)
    return torch.maximum(largest, of_rest), place


def drawn(
    scores: torch.Tensor, draw: Draw, generators: Sequence[torch.Generator | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest score of each row (rows,) and the token drawn (rows,).

    Args:
        scores: float32 (rows, vocabulary).
        generators: of each row; None is torch's own. Each moves on by one draw, whatever the row
            holds.
    """
    num_rows = max(1, _AT_ONCE // scores.shape[1])
    if scores.is_cpu and len(scores) > num_rows:  # what is in its cache is read several times
        parts = [
            drawn(scores[place : place + num_rows], draw, generators[place : place + num_rows])
            for place in range(0, len(scores), num_rows)
        ]
        return torch.cat([largest for largest, _ in parts]), torch.cat([ids for _, ids in parts])
    if draw.temperature is not None:
        scores = scores / draw.temperature
    if draw.top_k is not None and draw.top_k < min(_MOST_KEPT, scores.shape[1]):
        return _drawn_from_few(scores, draw, draw.top_k, generators)
    largest = scores.amax(dim=-1)
    if draw.top_k is not None and draw.top_k < scores.shape[1]:
        least = scores.topk(draw.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if draw.top_p is not None:
        scores = TopPLogitsWarper(draw.top_p)(_UNUSED, scores)
    if draw.min_p is not None:
        scores = MinPLogitsWarper(draw.min_p)(_UNUSED, scores)
    random = _exponentials(scores, generators)
    return largest, (scores.softmax(dim=-1) / random).argmax(dim=-1)


def _drawn_from_few(
    scores: torch.Tensor, draw: Draw, top_k: int, generators: Sequence[torch.Generator | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    largest, ids, kept = top(scores, top_k)
    if draw.top_p is not None:
        kept = _within(scores, ids, kept, draw.top_p)
    probabilities = _softmax(scores, ids, kept)
    if draw.min_p is not None:
        least = draw.min_p * probabilities.amax(dim=-1, keepdim=True)
        kept = kept.masked_fill(probabilities < least, -torch.inf)
        probabilities = _softmax(scores, ids, kept)
    random = _exponentials_of(scores, ids, probabilities, generators)
    place = (probabilities / random).argmax(dim=-1, keepdim=True)
    return largest, ids.gather(1, place).squeeze(1)


def top(scores: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest score (rows,), and the tokens that `top_k` keeps: their ids in order (rows, kept)
    and their scores.

    Tokens as likely as the last one are kept, too; minus infinity fills shorter rows.
    """
    length = scores.shape[1]
    num_kept = min(top_k + 28, length)
    while True:
        values, ids = _largest(scores, num_kept)
        least = values[:, top_k - 1 : top_k]
        may_lack = (values[:, -1:] >= least) & (least > -torch.inf)
        if num_kept == length or not bool(may_lack.any()):
            break
        num_kept = min(2 * num_kept, length)  # what is as likely as the last one goes on
    ids, order = ids.sort(dim=-1)
    kept = values.gather(1, order)
    return values[:, 0], ids, kept.masked_fill(kept < least, -torch.inf)


def _largest(scores: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest scores of each row, largest first, and their places, both (rows, number)."""
    rows, length = scores.shape
    num_blocks = length // _BLOCK
    if not scores.is_cpu or num_blocks < 2 * number:
        return scores.topk(number)
    # Each of them is in a block that has one of the largest scores, or after the last block.
    blocks = scores[:, : num_blocks * _BLOCK].unflatten(-1, (num_blocks, _BLOCK))
    chosen = blocks.amax(dim=-1).topk(number, sorted=False).indices  # (rows, number)
    places = chosen.unsqueeze(-1) * _BLOCK + torch.arange(_BLOCK)
    after = torch.arange(num_blocks * _BLOCK, length).expand(rows, -1)
    places = torch.cat([places.flatten(1), after], dim=1)
    values, order = scores.gather(1, places).topk(number)
    return values, places.gather(1, order)


def _within(
    scores: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, top_p: float
) -> torch.Tensor:
    """`kept` with minus infinity for what is beyond `top_p`, as `TopPLogitsWarper` has it."""
    num_kept = kept.shape[1]
    ascending, order = kept.sort(dim=-1)
    row = torch.full_like(scores, -torch.inf)
    row[:, -num_kept:] = ascending
    probabilities = row.softmax(dim=-1)
    if kept.is_cpu:  # elsewhere rounding depends on where a number stands
        probabilities = probabilities[:, -num_kept:]
    sums = probabilities.cumsum(dim=-1)[:, -num_kept:]
    is_beyond = sums <= 1 - top_p
    is_beyond[:, -1] = False
    is_border = is_beyond[:, :-1] & ~is_beyond[:, 1:] & (ascending[:, :-1] == ascending[:, 1:])
    result = kept.masked_fill(is_beyond.scatter(1, order, is_beyond), -torch.inf)
    cuts_equals = is_border.any(dim=-1)
    if bool(cuts_equals.any()):  # which of equals are kept is for the order of the whole row
        some = cuts_equals.nonzero().squeeze(1)
        whole = _whole(scores[some], ids[some], kept[some])
        result[some] = TopPLogitsWarper(top_p)(_UNUSED, whole).gather(1, ids[some])
    return result


def _whole(scores: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Rows of all tokens, with minus infinity for those that are not kept."""
    return torch.full_like(scores, -torch.inf).scatter_(1, ids, kept)


def _softmax(scores: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Probabilities of these tokens where no others are possible (rows, kept)."""
    return _whole(scores, ids, kept).softmax(dim=-1).gather(1, ids)


def _exponentials(
    scores: torch.Tensor, generators: Sequence[torch.Generator | None]
) -> torch.Tensor:
    """Random numbers, exponentially distributed: a token is drawn where its probability over its
    number is largest, as in `torch.multinomial`."""
    random = torch.empty_like(scores)
    for row, generator in zip(random, generators, strict=True):
        row.exponential_(generator=generator)
    return random


def _exponentials_of(
    scores: torch.Tensor,
    ids: torch.Tensor,
    probabilities: torch.Tensor,
    generators: Sequence[torch.Generator | None],
) -> torch.Tensor:
    """The numbers of `_exponentials` at these ids, where there is a probability; 1 elsewhere."""
    if not scores.is_cpu or not _bits_tell():
        return _exponentials(scores, generators).gather(1, ids)
    result = torch.ones_like(probabilities)
    for row, row_ids, row_probabilities, generator in zip(
        result, ids, probabilities, generators, strict=True
    ):
        places = row_probabilities.nonzero().squeeze(1)
        wanted = row_ids[places]
        if generator is None:  # which other threads may use
            bits = torch.empty(scores.shape[1], dtype=torch.long).random_()[wanted]
        else:
            bits = random_bits(generator, scores.shape[1], wanted)
        row[places] = _from_bits(bits)
    return result


def _from_bits(bits: torch.Tensor) -> torch.Tensor:
    fraction = 2.0**-_FRACTION_BITS
    mask = (1 << _FRACTION_BITS) - 1
    return torch.tensor(
        [-math.log1p(-((value & mask) * fraction)) for value in bits.tolist()], dtype=torch.float32
    )


@cache
def _bits_tell() -> bool:
    """Whether this build of torch makes an exponential number of the bits of a whole one."""
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    numbers = torch.empty(1000).exponential_(generator=one)
    bits = torch.empty(1000, dtype=torch.long).random_(generator=other)
    return torch.equal(numbers, _from_bits(bits)) and torch.equal(
        one.get_state(), other.get_state()
    )
