"""Which tokens of two answers were corrected, and their weights (DDPO, arXiv 2312.00849).

    chosen    A red  circle and a   blue star .
    rejected  A red  square and one blue star .

Tokens are compared, not words. A match shorter than three tokens counts as none, so that a word
between two corrections belongs to them. What was only added or only left out keeps weight 1: the
other answer has nothing to stand against it.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

Span = tuple[int, int, int, int]


def corrected_spans(
    chosen: Sequence[int], rejected: Sequence[int], min_match: int = 3
) -> list[Span]:
    """Where one answer has other tokens than the other: (start, end) in each, both not empty."""
    matcher = SequenceMatcher(None, chosen, rejected, autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size >= min_match]
    spans: list[Span] = []
    start_c = start_r = 0
    for start, other, size in [*blocks, (len(chosen), len(rejected), 0)]:
        if start > start_c and other > start_r:
            spans.append((start_c, start, start_r, other))
        start_c, start_r = start + size, other + size
    return spans


def corrected_weights(
    chosen: Sequence[int], rejected: Sequence[int], gamma: float, min_match: int = 3
) -> tuple[list[float], list[float]]:
    """The weight of each token of both answers: `gamma` where it was corrected, 1 elsewhere.

    Args:
        chosen, rejected: tokens of the answers, without their prompt.
        gamma: 5 in the paper, 1.1 in the released command.
        min_match: the fewest tokens that count as equal.
    """
    weights_c, weights_r = [1.0] * len(chosen), [1.0] * len(rejected)
    for start_c, end_c, start_r, end_r in corrected_spans(chosen, rejected, min_match):
        weights_c[start_c:end_c] = [gamma] * (end_c - start_c)
        weights_r[start_r:end_r] = [gamma] * (end_r - start_r)
    return weights_c, weights_r
