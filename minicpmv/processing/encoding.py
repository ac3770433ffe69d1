"""Prompts to token ids: quoted tags as plain characters, cutting on the right, padding.

The tokenizer splits text at special tokens and encodes each piece by itself. So a piece that holds
a quoted tag (see `messages.py`) can be encoded apart, with special tokens read as characters, and
no other id changes. For the same reason a long run of placeholders is encoded as one of them.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from .quoting import QUOTE_END, QUOTE_START, Span, unquoted
from .telling import turns_of


class Encoded(NamedTuple):
    """One prompt: its ids, and for each the span of characters it came from."""

    ids: list[int]
    offsets: list[Span]

    def cut(self, length: int) -> "Encoded":
        return Encoded(self.ids[:length], self.offsets[:length])

    def tokens_before(self, position: int) -> int:
        """How many tokens begin before this character."""
        return sum(start < position for start, _ in self.offsets)

    def mask(self, token_id: int, spans: Sequence[Span]) -> np.ndarray:
        """1 where a token is `token_id` and begins in one of the spans, (num_tokens,).

        The spans do not overlap.
        """
        found = np.zeros(len(self.ids), np.int64)
        size = len(self.ids)
        while size and self.offsets[size - 1] == (0, 0):  # added behind the text
            size -= 1
        for start, end in spans:
            first, last = (bisect_left(self.offsets, (at,), 0, size) for at in (start, end))
            found[first:last] = np.array(self.ids[first:last]) == token_id
        return found


def encode(
    tokenizer: Any, text: str, add_special_tokens: bool, filler: str | None = None
) -> Encoded:
    """Encode one prompt; tags in quotes become plain characters.

    Args:
        filler: a token that the tokenizer cuts out of the text, and that may stand there many times
            in a row.
    """
    if QUOTE_START not in text:
        return _encode_runs(tokenizer, text, add_special_tokens, filler)
    bare, positions, quoted = unquoted(text)
    encoded = _encode_piece(tokenizer, "", add_special_tokens)
    special = _any_of(tuple(map(str, tokenizer.added_tokens_encoder)))
    for start, end, as_characters in stretches(special, bare, quoted):
        if as_characters:
            piece = _encode_piece(tokenizer, bare[start:end], False, as_characters=True)
        else:
            piece = _encode_runs(tokenizer, bare[start:end], False, filler)
        encoded.ids.extend(piece.ids)
        encoded.offsets.extend(
            (positions[start + first], positions[start + max(last - 1, first)] + (last > first))
            for first, last in piece.offsets
        )
    return encoded


def ids_of(tokenizer: Any, text: str, add_special_tokens: bool) -> list[int]:
    """The tokens of a plain text, in which tags have their meaning."""
    return _encode_piece(tokenizer, text, add_special_tokens).ids


class GrowingText:
    """Encodes texts that begin alike, such as the prompts of one conversation: what stands before
    the last special token that a text shares with the one before it is not encoded again.

    Args:
        tokenizer: which cuts special tokens out of the text and encodes the pieces by themselves.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._text = ""
        self._encoded = Encoded([], [])

    def __call__(self, text: str, add_special_tokens: bool, filler: str | None = None) -> Encoded:
        """As `encode`."""
        shared = self._shared(text)
        if shared == 0:
            encoded = encode(self.tokenizer, text, add_special_tokens, filler)
        else:
            count = bisect_left(self._encoded.offsets, (shared, 0))
            rest = encode(self.tokenizer, text[shared:], False, filler)
            encoded = Encoded(
                self._encoded.ids[:count] + rest.ids,
                self._encoded.offsets[:count]
                + [(start + shared, end + shared) for start, end in rest.offsets],
            )
        self._text, self._encoded = text, encoded
        return encoded

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        return _cut_out(self.tokenizer)

    def _shared(self, text: str) -> int:
        """Where the last special token ends that stands in both texts at the same place and not in
        quotes; 0 for none."""
        length = _common_length(self._text, text)
        special = self._special if length else None
        if special is None:
            return 0
        for first in (max(length - _LOOKED_BACK, 0), 0):
            found = list(special.finditer(text, first, length))
            # The first one may be the end of a longer one.
            for match in reversed(found[1:] if first else found):
                before = text.rfind(QUOTE_START, 0, match.end())
                if before < 0 or text.find(QUOTE_END, before, match.end()) >= 0:
                    return match.end()
        return 0


def pad(
    prompts: Sequence[Encoded],
    masks: Sequence[np.ndarray],
    settings: Mapping[str, Any],
    *,
    pad_id: int | None,
    side: str,
    hide_zero: bool,
) -> dict[str, list[Any]]:
    """Lists of equal length for a batch, as `settings` (padding, max_length, ...) say.

    Args:
        masks: `mm_token_type_ids` of each prompt.
        hide_zero: whether tokens of id 0 are left out of attention.
    """
    length = _padded_length([len(prompt.ids) for prompt in prompts], settings)
    data: dict[str, list[Any]] = {
        "input_ids": [],
        "attention_mask": [],
        "mm_token_type_ids": [],
        "offset_mapping": [],
    }
    for prompt, mask in zip(prompts, masks, strict=True):
        missing = max(length - len(prompt.ids), 0)
        if missing and pad_id is None:
            raise ValueError(
                "The tokenizer has no pad token, so prompts of different length cannot be batched. "
                "Set tokenizer.pad_token."
            )
        attended = [int(not hide_zero or token != 0) for token in prompt.ids]
        for name, values, fill in (
            ("input_ids", prompt.ids, pad_id),
            ("attention_mask", attended, 0),
            ("mm_token_type_ids", mask.tolist(), 0),
            ("offset_mapping", prompt.offsets, (0, 0)),
        ):
            filling = [fill] * missing
            data[name].append([*filling, *values] if side == "left" else [*values, *filling])
    return data


def stretches(
    special: re.Pattern[str], bare: str, quoted: Sequence[Span]
) -> list[tuple[int, int, bool]]:
    """(start, end, as characters) of the parts of `bare` that are encoded apart, in order.

    Args:
        special: matches the tokens that the tokenizer cuts out of the text.
        quoted: spans that are read as characters, in order and apart from each other.
    """
    found: list[tuple[int, int, bool]] = []
    last = begin = index = 0
    for start, end in [*_outside(special, bare, quoted), (len(bare), len(bare))]:
        while index < len(quoted) and quoted[index][0] < begin:
            index += 1
        if index < len(quoted) and quoted[index][1] <= start:
            found += [(last, begin, False), (begin, start, True)]
            last = start
        begin = end
    return [*found, (last, len(bare), False)]


def _outside(special: re.Pattern[str], bare: str, quoted: Sequence[Span]) -> Iterator[Span]:
    """Spans of special tokens that touch no quoted span."""
    index = 0
    for match in special.finditer(bare):
        while index < len(quoted) and quoted[index][1] <= match.start():
            index += 1
        if index == len(quoted) or quoted[index][0] >= match.end():
            yield match.span()


_LOOKED_BACK = 512  # characters


def _common_length(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _cut_out(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches special tokens; None where one takes the white space around it."""
    tokens = tokenizer.added_tokens_decoder.values()
    if any(token.lstrip or token.rstrip or token.single_word for token in tokens):
        return None
    return _any_of(tuple(str(token) for token in tokens if token.special))


@lru_cache(maxsize=32)
def _any_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


@lru_cache(maxsize=32)
def _runs_of(token: str) -> re.Pattern[str]:
    return re.compile(f"(?:{re.escape(token)}){{2,}}")


def _encode_runs(
    tokenizer: Any, text: str, add_special_tokens: bool, filler: str | None
) -> Encoded:
    """As `_encode_piece`, with one filler of each run encoded and the others copied."""
    runs = [] if filler is None else [run.span() for run in _runs_of(filler).finditer(text)]
    if filler is None or not runs:
        return _encode_piece(tokenizer, text, add_special_tokens)
    encoded = Encoded([], [])
    size = len(filler)
    kept = zip([0, *(end for _, end in runs)], [*(start for start, _ in runs), None], strict=True)
    short = filler.join(text[end:start] for end, start in kept)
    removed = index = 0
    first, last = runs[0]
    for token, (start, end) in zip(
        *_encode_piece(tokenizer, short, add_special_tokens), strict=True
    ):
        if (start, end) != (0, 0):  # not added before or behind the text
            start, end = start + removed, end + removed
        if (start, end) == (first, first + size):
            starts = range(first, last, size)
            encoded.ids.extend([token] * len(starts))
            encoded.offsets.extend(zip(starts, range(first + size, last + size, size), strict=True))
            removed += last - first - size
            index += 1
            first, last = runs[index] if index < len(runs) else (-1, -1)
        else:
            encoded.ids.append(token)
            encoded.offsets.append((start, end))
    if index < len(runs):  # a tokenizer that takes white space into the token, or splits it
        return _encode_piece(tokenizer, text, add_special_tokens)
    return encoded


def _encode_piece(
    tokenizer: Any, text: str, add_special_tokens: bool, as_characters: bool = False
) -> Encoded:
    if not text and not add_special_tokens:
        return Encoded([], [])
    backend = tokenizer.backend_tokenizer

    def tell() -> None:
        if backend.encode_special_tokens != as_characters:
            backend.encode_special_tokens = as_characters
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()

    with turns_of(tokenizer).reading(as_characters, tell):
        encoding = backend.encode(text, add_special_tokens=add_special_tokens)
    return Encoded(encoding.ids, encoding.offsets)


def _padded_length(lengths: Sequence[int], settings: Mapping[str, Any]) -> int:
    padding = settings.get("padding", True)
    padding = getattr(padding, "value", padding)
    if padding in (False, None, "do_not_pad"):
        return 0
    if padding == "max_length":
        length = settings.get("max_length")
        if length is None:
            raise ValueError("padding='max_length' needs max_length.")
    elif padding in (True, "longest"):
        length = max(lengths, default=0)
    else:
        raise ValueError(f"padding is {padding!r}; it is True, False, 'longest' or 'max_length'.")
    multiple = settings.get("pad_to_multiple_of") or 1
    return -(-length // multiple) * multiple
