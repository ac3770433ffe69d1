"""Tokens to text, piece by piece, each token decoded a fixed number of times.

Joined, the pieces are `processor.decode_answer` of all tokens, whatever the tokens are. Text goes
through a pipe of stages, each of which holds back only what later text can change:

    tokens -> window decoding -> replacements (2.5) -> stop texts (text models) -> strip
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from .protocols import Processor

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of SentencePiece for one byte
# A character has up to 4 bytes, and a token one or more: a window that begins 3 tokens before what
# was shown, and keeps the 3 that may wait for their end, decodes as the whole does.
_KEPT = 6
_LONGEST_WINDOW = 12
_INCOMPLETE = "\ufffd"


def stream_text(ids: Iterable[int], processor: Processor, strip: bool = True) -> Iterator[str]:
    """Pieces of text, each as soon as later tokens cannot change it."""
    detokenizer = Detokenizer(processor, strip)
    for token in ids:
        piece = detokenizer.feed(token)
        if piece:
            yield piece
    piece = detokenizer.finish()
    if piece:
        yield piece


class Detokenizer:
    """The text of one answer, token by token.

    Where a later token can change any of the text, as in some releases under compat="released", all
    is held back until the end.
    """

    def __init__(self, processor: Processor, strip: bool = True):
        self._processor = processor
        self._strip = strip
        self._holds_all = not processor.text_only_grows
        self._terminators = set(processor.terminator_ids)
        self._held: list[int] = []
        self._ended = False
        self._window = _Window(processor)
        stages: list[_Stage] = [_Replace(*pair) for pair in processor.clean_ups]
        stages += [_CutAt(stop) for stop in processor.release.stop_texts]
        self._stages = [*stages, _Strip()] if strip else stages
        self._is_first = True

    def feed(self, token: int) -> str:
        """Text that is settled by this token, often none."""
        if self._holds_all:
            self._held.append(token)
            return ""
        if self._ended or token in self._terminators:
            self._ended = True
            return ""
        if token in self._processor.ignored_ids:
            return ""
        is_first, self._is_first = self._is_first, False
        if is_first and token == self._processor.leading_id:
            return ""
        return self._through(self._window.feed(token))

    def finish(self) -> str:
        """The rest of the text."""
        if self._holds_all:
            return self._processor.decode_answer(self._held, strip=self._strip)
        text = self._through(self._window.finish())
        for index, stage in enumerate(self._stages):
            rest = stage.finish()
            for later in self._stages[index + 1 :]:
                rest = later.feed(rest)
            text += rest
        return text

    def _through(self, text: str) -> str:
        for stage in self._stages:
            if not text:
                break
            text = stage.feed(text)
        return text


class _Window:
    """Tokens to text that later tokens cannot change."""

    def __init__(self, processor: Processor):
        self._processor = processor
        self._ids: list[int] = []
        self._shown = 0  # characters of the window's text
        self._is_after_bytes = False  # bytes become a character or garbage together

    def feed(self, token: int) -> str:
        self._ids.append(token)
        piece = self._processor.tokenizer.convert_ids_to_tokens(token)
        if _BYTE.fullmatch(str(piece)):
            self._is_after_bytes = True
            return ""
        text = self._new_text(is_last=False)
        if self._is_after_bytes:
            self._restart(1)
        elif len(self._ids) > _LONGEST_WINDOW:
            self._restart(_KEPT)
        return text

    def finish(self) -> str:
        return self._new_text(is_last=True)

    def _new_text(self, is_last: bool) -> str:
        text = self._processor.text_of(self._ids)
        if not is_last:
            text = text.removesuffix(_INCOMPLETE)
        new = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return new

    def _restart(self, num_kept: int) -> None:
        """Begin the window later; the text that was not shown stays so."""
        text = self._processor.text_of(self._ids[-num_kept:])
        if not text:  # the space that begins a text may be lost, and only one with text shows it
            return
        self._ids = self._ids[-num_kept:]
        self._shown = len(text.removesuffix(_INCOMPLETE))
        self._is_after_bytes = False


class _Stage(Protocol):
    def feed(self, text: str) -> str:
        """What is settled of the text after this piece and was not given yet."""

    def finish(self) -> str:
        """The rest."""


class _Replace:
    """`str.replace` of a text that comes in pieces."""

    def __init__(self, found: str, replacement: str):
        self._found = found
        self._replacement = replacement
        self._held = ""

    def feed(self, text: str) -> str:
        *done, rest = (self._held + text).split(self._found)
        length = _overlap(rest, self._found)
        self._held = rest[len(rest) - length :]
        return self._replacement.join([*done, rest[: len(rest) - length]])

    def finish(self) -> str:
        return self._held


class _CutAt:
    """The text before a stop text."""

    def __init__(self, stop: str):
        self._stop = stop
        self._held = ""
        self._ended = False

    def feed(self, text: str) -> str:
        if self._ended:
            return ""
        text, stop, _ = (self._held + text).partition(self._stop)
        self._ended = bool(stop)
        length = 0 if self._ended else _overlap(text, self._stop)
        self._held = text[len(text) - length :]
        return text[: len(text) - length]

    def finish(self) -> str:
        return self._held


class _Strip:
    """`str.strip`."""

    def __init__(self) -> None:
        self._held = ""
        self._has_begun = False

    def feed(self, text: str) -> str:
        text = self._held + text if self._has_begun else text.lstrip()
        bare = text.rstrip()
        self._has_begun = self._has_begun or bool(text)
        self._held = text[len(bare) :]
        return bare

    def finish(self) -> str:
        return ""


def _overlap(text: str, pattern: str) -> int:
    """How many characters at the end of `text` may be the beginning of `pattern`."""
    longest = min(len(text), len(pattern) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(pattern[:n])), 0)


def answer_end(ids: Sequence[int], processor: Processor) -> int | None:
    """How many of the new tokens are the answer and what ended it; None when nothing did."""
    terminators = set(processor.terminator_ids)
    end = next((index + 1 for index, token in enumerate(ids) if token in terminators), None)
    if processor.release.stop_texts and processor.has_stop_text(ids[:end]):
        return bisect_left(
            range(len(ids)), True, key=lambda length: processor.has_stop_text(ids[:length])
        )
    return end
