"""Text inside a message is data: reserved tags in it are put in quotes.

The quotes are two private-use characters, the pair that transformers uses too. A quoted tag travels
through the chat template, and `encoding.py` encodes it as plain characters.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from .placeholders import MARKER

Span = tuple[int, int]

QUOTE_START, QUOTE_END = "\U000f0000", "\U000f0001"

_QUOTED = re.compile(f"{QUOTE_START}(.*?){QUOTE_END}", re.DOTALL)
# Grounding tags are the model's own language; a prompt may use them.
_FREE_TAGS = re.compile(r"</?(ref|box|quad|point)>")


def reserved_tags(added_tokens: Iterable[str], *, keep_markers: bool) -> re.Pattern[str]:
    """Matches what a message must not write, and as group `keep` the markers that it may."""
    return _reserved(tuple(added_tokens), keep_markers)


@lru_cache(maxsize=32)
def _reserved(added_tokens: tuple[str, ...], keep_markers: bool) -> re.Pattern[str]:
    tags = [
        token
        for token in added_tokens
        if token.startswith("<") and token.endswith(">") and not _FREE_TAGS.fullmatch(token)
    ]
    tags += ["<image>", "<video>"]  # halves of the markers, which need not be tokens
    reserved = "|".join(map(re.escape, sorted(set(tags), key=len, reverse=True)))
    keep = MARKER.pattern if keep_markers else "(?!)"
    return re.compile(f"(?P<keep>{keep})|(?P<tag>{reserved})")


def quoted(value: Any, tags: re.Pattern[str] | None) -> Any:
    """A text with its reserved tags in quotes; lists and dicts of texts likewise, else unchanged.

    Args:
        tags: from `reserved_tags`; None changes nothing.
    """
    if tags is None:
        return value
    if isinstance(value, Mapping):
        return {key: quoted(item, tags) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [quoted(item, tags) for item in value]
    if not isinstance(value, str):
        return value
    text = value.replace(QUOTE_START, "").replace(QUOTE_END, "")

    def put_in_quotes(match: re.Match[str]) -> str:
        tag = match.group("tag")
        return match.group() if tag is None else f"{QUOTE_START}{tag}{QUOTE_END}"

    return tags.sub(put_in_quotes, text)


def unquoted(text: str) -> tuple[str, list[int], list[Span]]:
    """Text without the quotes.

    Returns:
        The bare text; for each of its characters, and its end, the position in `text`; and the
        spans in the bare text that stood in quotes, in order.
    """
    pieces: list[str] = []
    positions: list[int] = []
    spans: list[Span] = []
    last = 0
    for match in _QUOTED.finditer(text):
        pieces += [text[last : match.start()], match.group(1)]
        positions += [*range(last, match.start()), *range(match.start(1), match.end(1))]
        spans.append((len(positions) - len(match.group(1)), len(positions)))
        last = match.end()
    positions += range(last, len(text) + 1)
    return "".join([*pieces, text[last:]]), positions, spans
