"""Tokens to text, piece by piece, each token decoded a fixed number of times.

Joined, the pieces are `processor.decode_answer` of all tokens, whatever the tokens are. Text goes
through a pipe of stages, each of which holds back only what later text can change:

    tokens -> window decoding -> replacements (2.5) -> stop texts (text models) -> strip
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from .protocols import Processor
from .spelling import bytes_of_part

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of SentencePiece for one byte
# A character has up to 4 bytes, and a token one or more: a window that begins 3 tokens before what
# was shown, and keeps the 3 that may wait for their end, decodes as the whole does.
_KEPT = 6
_LONGEST_WINDOW = 12
_INCOMPLETE = "\ufffd"


def stream_text(
    ids: Iterable[int], processor: Processor, strip: bool = True, stop: Sequence[str] = ()
) -> Iterator[str]:
    """Pieces of text, each as soon as later tokens cannot change it.

    Args:
        stop: texts of the caller that end the answer.
    """
    detokenizer = Detokenizer(processor, strip, stop)
    for token in ids:
        piece = detokenizer.feed(token)
        if piece:
            yield piece
    piece = detokenizer.finish()
    if piece:
        yield piece


def answer_text(
    ids: Sequence[int],
    processor: Processor,
    strip: bool = True,
    stop: Sequence[str] = (),
    keeps_end: bool = False,
) -> str:
    """The text of an answer; joined, the pieces of `stream_text` are the same.

    Args:
        keeps_end: whether white space before a stop text of the caller is not stripped.
    """
    if not stop:
        return processor.decode_answer(ids, strip=strip)
    text = processor.decode_answer(ids, strip=False)
    if not processor.text_only_grows:  # and may lack the last token
        whole = _as_it_stands(ids, processor)
        text = whole if any(each in whole for each in stop) else text
    cut = _CutAt(*processor.release.stop_texts, *stop).feed(text, is_last=True)
    if strip and keeps_end:
        own = _CutAt(*processor.release.stop_texts).feed(text, is_last=True)
        return cut.lstrip() if len(cut) < len(own) else cut.strip()
    return cut.strip() if strip else cut


class Detokenizer:
    """The text of one answer, token by token.

    Where a later token can change any of the text, as in some releases under compat="released", all
    is held back until the end.
    """

    def __init__(
        self,
        processor: Processor,
        strip: bool = True,
        stop: Sequence[str] = (),
        before: Sequence[int] = (),
        keeps_end: bool = False,
    ):
        """
        Args:
            before: tokens that these continue: the space between them is not lost.
            keeps_end: as of `answer_text`.
        """
        self._processor = processor
        self._keeps_end = keeps_end
        self._strip, self._stop = strip, stop
        self._held: list[int] | None = None if processor.text_only_grows else []
        self._text = _Text(processor, before)
        self._stages: list[_Stage] = [_Replace(*pair) for pair in processor.clean_ups]
        if processor.release.stop_texts:
            self._stages.append(_CutAt(*processor.release.stop_texts))
        own = _CutAt(*stop)
        if stop:
            self._stages.append(own)
        if strip:
            self._stages.append(_Strip(own if keeps_end else None))

    def feed(self, token: int) -> str:
        """Text that is settled by this token, often none."""
        if self._held is not None:
            self._held.append(token)
            return ""
        return self._through(self._text.feed(token))

    def finish(self) -> str:
        """The rest of the text."""
        if self._held is not None:
            return answer_text(
                self._held, self._processor, self._strip, self._stop, self._keeps_end
            )
        text = self._through(self._text.finish())
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


class StopTexts:
    """Whether the text of new tokens, as it stands, holds a text that ends the answer.

    A token costs the same wherever it stands, but where the text does not only grow, as in some
    releases under compat="released": all of it is read again.
    """

    def __init__(self, texts: Sequence[str], processor: Processor):
        self._texts = tuple(texts)
        self._processor = processor
        self._all: list[int] | None = None if processor.text_only_grows else []
        self._text = _Text(processor)
        self._replaced = [_Replace(*pair) for pair in processor.clean_ups]
        self._num_kept = max(map(len, self._texts), default=1) - 1
        self._end = ""  # of the settled text
        self.is_found = False

    def feed(self, token: int) -> bool:
        """Whether the tokens up to this one hold such a text."""
        if self.is_found or not self._texts:
            return self.is_found
        if self._all is not None:
            self._all.append(token)
            text = _as_it_stands(self._all, self._processor)
        else:
            settled = self._text.feed(token)
            unsettled = self._text.unsettled()
            for stage in self._replaced:
                unsettled = stage.peek(settled, unsettled)
                settled = stage.feed(settled)
            text = self._end + settled
            self._end = text[max(len(text) - self._num_kept, 0) :]
            text += unsettled
        self.is_found = any(stop in text for stop in self._texts)
        return self.is_found

    def are_in(self, ids: Iterable[int]) -> bool:
        """Whether the text of these new tokens holds one, all of it read at once."""
        text = _as_it_stands(ids, self._processor)
        return any(stop in text for stop in self._texts)


class TokenTexts:
    """The text of a token alone, as it is after another word: with the space it may begin with.

    A token that is a part of a character has the replacement character for its text.
    """

    def __init__(self, processor: Processor):
        self._processor = processor
        self._texts: dict[int, str] = {}
        ids = processor.tokenizer("a", add_special_tokens=False)["input_ids"]
        self._before = ids[-1:]
        self._text_before = processor.text_of(self._before)

    def __call__(self, token: int) -> str:
        if token not in self._texts:
            text = self._processor.text_of([*self._before, token])
            if text.startswith(self._text_before):
                self._texts[token] = text[len(self._text_before) :]
            else:
                self._texts[token] = self._processor.text_of([token])
        return self._texts[token]

    def part(self, token: int) -> bytes | None:
        """The bytes of a token that is a part of a character."""
        if _INCOMPLETE not in self(token):
            return None
        return bytes_of_part(str(self._processor.tokenizer.convert_ids_to_tokens(token)))


class _Text:
    """The tokens of an answer that have a text, to text that later tokens cannot change."""

    def __init__(self, processor: Processor, before: Sequence[int] = ()):
        self._terminators = set(processor.terminator_ids)
        self._ignored = set(processor.ignored_ids)
        self._leading_id = processor.leading_id
        self._window = _Window(processor, before)
        self._has_ended = False
        self._is_first = not before

    def feed(self, token: int) -> str:
        return self._window.feed(token) if self.takes(token) else ""

    def takes(self, token: int) -> bool:
        """Whether the next token has a text."""
        if self._has_ended or token in self._terminators:
            self._has_ended = True
            return False
        if token in self._ignored:
            return False
        is_first, self._is_first = self._is_first, False
        return not (is_first and token == self._leading_id)

    def unsettled(self) -> str:
        """Text after that, as it stands, without a character that is not complete."""
        return self._window.unsettled()

    def finish(self) -> str:
        return self._window.finish()


class _Window:
    """Tokens to text that later tokens cannot change."""

    def __init__(self, processor: Processor, before: Sequence[int]):
        self._processor = processor
        self._ids = list(before[-_KEPT:])
        text = processor.text_of(self._ids) if self._ids else ""
        self._shown = len(text.removesuffix(_INCOMPLETE))  # characters of the window's text
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

    def unsettled(self) -> str:
        if not self._is_after_bytes:
            return ""
        return self._processor.text_of(self._ids)[self._shown :]

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

    def peek(self, settled: str, unsettled: str) -> str:
        """What would follow the text that `feed(settled)` gives if `unsettled` were the last."""
        text = self._held + settled
        *_, rest = text.split(self._found)
        held = rest[len(rest) - _overlap(rest, self._found) :]
        return (held + unsettled).replace(self._found, self._replacement)

    def finish(self) -> str:
        return self._held


class _CutAt:
    """The text before a stop text: the first to be complete, of several at once the longest."""

    def __init__(self, *stops: str):
        self._stops = stops
        self._held = ""
        self.has_ended = False

    def feed(self, text: str, is_last: bool = False) -> str:
        if self.has_ended:
            return ""
        text = self._held + text
        places = [(text.find(stop), len(stop)) for stop in self._stops]
        found = [(place + length, place) for place, length in places if place >= 0]
        self.has_ended = bool(found)
        if found:
            _, place = min(found)
            self._held = ""
            return text[:place]
        length = 0 if is_last else max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - length :]
        return text[: len(text) - length]

    def finish(self) -> str:
        return self._held


class _Strip:
    """`str.strip`.

    Args:
        cut: where this one has found its text, the end of the text stays as it is.
    """

    def __init__(self, cut: _CutAt | None = None) -> None:
        self._cut = cut
        self._held = ""
        self._has_begun = False

    def feed(self, text: str) -> str:
        text = self._held + text if self._has_begun else text.lstrip()
        bare = text.rstrip()
        self._has_begun = self._has_begun or bool(text)
        self._held = text[len(bare) :]
        return bare

    def finish(self) -> str:
        return self._held if self._cut is not None and self._cut.has_ended else ""


def _overlap(text: str, pattern: str) -> int:
    """How many characters at the end of `text` may be the beginning of `pattern`."""
    longest = min(len(text), len(pattern) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(pattern[:n])), 0)


def answer_end(
    ids: Sequence[int],
    processor: Processor,
    stop: Sequence[str] = (),
    ends: Collection[int] = (),
) -> int | None:
    """How many of the new tokens are the answer and what ended it; None when nothing did.

    Args:
        stop: texts of the caller that end it, beside those of the release.
        ends: tokens of the caller that end it, beside the terminators.
    """
    terminators = {*processor.terminator_ids, *ends}
    end = next((index + 1 for index, token in enumerate(ids) if token in terminators), None)
    texts = (*processor.release.stop_texts, *stop)
    if not texts:
        return end

    stops = StopTexts(texts, processor)
    if processor.text_only_grows:
        found = next((place for place, token in enumerate(ids[:end]) if stops.feed(token)), None)
        return end if found is None else found + 1

    if not stops.are_in(ids[:end]):
        return end
    return bisect_left(range(len(ids)), True, key=lambda length: stops.are_in(ids[:length]))


def found_stop(ids: Iterable[int], processor: Processor, stop: Sequence[str]) -> str | None:
    """The text of `stop` that is complete first in an answer, of several at once the longest."""
    text = _as_it_stands(ids, processor)
    places = [(text.find(each), each) for each in stop]
    found = [(place + len(each), place, each) for place, each in places if place >= 0]
    return min(found)[2] if found else None


def _as_it_stands(ids: Iterable[int], processor: Processor) -> str:
    text = _Text(processor)
    kept = [token for token in ids if text.takes(token)]
    result = processor.text_of(kept)
    for found, replacement in processor.clean_ups:
        result = result.replace(found, replacement)
    return result
