"""Pieces of a SentencePiece vocabulary back to text.

Characters outside the vocabulary are spelt in bytes, `<0xE6><0x97><0xA5>`. Bytes that make no
character, as at the end of an answer cut short, become U+FFFD each and leave their neighbours
alone.
"""

import re
from collections.abc import Collection, Iterable, Sequence

SPACE = "▁"  # how pieces write a space

_BYTE = re.compile("<0x([0-9A-F]{2})>")


def joined(pieces: Iterable[str | None]) -> str:
    """The text of pieces. None, an id that the vocabulary lacks, has no text."""
    text = ""
    pending = bytearray()
    for piece in pieces:
        if piece is None:
            continue
        byte = _BYTE.fullmatch(piece)
        if byte is not None:
            pending.append(int(byte.group(1), 16))
            continue
        text += _characters(pending) + piece.replace(SPACE, " ")
        pending.clear()
    return text + _characters(pending)


def joined_as_released(pieces: Sequence[str | None], special: Collection[str]) -> str:
    """The text as the released tokenizers of 1.0 and 2.0 write it, for `compat="released"`.

    Text that stands before a special token gets a space more in front, unless that token is the
    first of all; a space that begins the whole text is lost.
    """
    text = ""
    stretch: list[str | None] = []
    for index, piece in enumerate(pieces):
        if piece is not None and piece in special:
            text += (" " if stretch else "") + joined(stretch) + piece
            stretch = []
        else:
            stretch.append(piece if index or piece is None else piece.removeprefix(SPACE))
    return text + joined(stretch)


def _characters(encoded: bytes | bytearray) -> str:
    """UTF-8 to text, with U+FFFD for every byte that is part of no character."""
    text, start = "", 0
    while start < len(encoded):
        for length in range(1, 5):
            try:
                text += encoded[start : start + length].decode("utf-8")
            except UnicodeDecodeError:
                continue
            break
        else:
            text, length = text + "\ufffd", 1
        start += length
    return text
