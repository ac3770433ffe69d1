"""Tokens to text, piece by piece."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from ..releases import TextRelease

_LONGEST_CLEAN_UP = 4  # characters of " 've"
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of SentencePiece for one byte


def stream_text(ids: Iterator[int], processor: Any, strip: bool = True) -> Iterator[str]:
    """Pieces of text, each as soon as later tokens cannot change it.

    Joined, they are `processor.decode_answer` of all ids.

    Held back are bytes, which become a character or garbage together; where the release removes
    spaces before punctuation, the last word if it may turn out to be such punctuation; and what may
    become a text that ends the answer. Where a later token can change any of the text, all is.
    """
    seen: list[int] = []
    shown = ""
    for token in ids:
        seen.append(token)
        is_byte = _BYTE.fullmatch(str(processor.tokenizer.convert_ids_to_tokens(token)))
        if is_byte or not processor.text_only_grows:
            continue
        text = _settled(processor.decode_answer(seen, strip=strip), processor.release)
        text = text.rstrip() if strip else text
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = processor.decode_answer(seen, strip=strip)
    if len(text) > len(shown):
        yield text[len(shown) :]


def _settled(text: str, release: TextRelease) -> str:
    """The part of a growing answer that later tokens cannot change."""
    text = text.rstrip("\ufffd")
    if release.clean_up_spaces:
        last_word = text.rfind(" ", len(text) - _LONGEST_CLEAN_UP)
        text = text if last_word < 0 else text[:last_word]
    starts = (stop[:length] for stop in release.stop_texts for length in range(1, len(stop)))
    held = max((len(start) for start in starts if text.endswith(start)), default=0)
    return text[: len(text) - held]


def answer_end(ids: Sequence[int], processor: Any) -> int | None:
    """How many of the new tokens are the answer and what ended it; None when nothing did."""
    terminators = set(processor.terminator_ids)
    end = next((index + 1 for index, token in enumerate(ids) if token in terminators), None)
    if processor.release.stop_texts and processor.has_stop_text(ids[:end]):
        return bisect_left(
            range(len(ids)), True, key=lambda length: processor.has_stop_text(ids[:length])
        )
    return end
