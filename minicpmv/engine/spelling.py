"""The bytes that each token of a vocabulary writes in the middle of a text, and the way back.

Byte-level vocabularies (Qwen2, Llama 3, nano) write one character for each byte: GPT-2's table.
SentencePiece (1.0, 2.0, OmniLMM-12B, text models) writes "▁" for a space, and "<0xE6>" for the byte
of a character that the vocabulary lacks.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import takewhile
from typing import Any

from ..errors import ArgumentError
from ..processing.sentencepiece import SPACE
from ..releases import TextRelease
from .protocols import Processor

_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Spelling:
    """What the tokens of a fast tokenizer write.

    Attributes:
        tokens: bytes by id; none for a token that stands for something (a tag, a terminator) and
            for an id without a token.
    """

    def __init__(self, tokenizer: Any):
        self._backend = backend = tokenizer.backend_tokenizer
        self._is_byte_level = not backend.model.byte_fallback
        # A token of one character is text whatever else it is: 2.5 pads with "!".
        roles = {
            number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special and len(token.content) > 1
        }
        self.tokens = [b""] * len(tokenizer)
        for piece, number in backend.get_vocab(with_added_tokens=True).items():
            if number not in roles:
                self.tokens[number] = self._bytes(piece)
        self._check()

    def _bytes(self, piece: str) -> bytes:
        if self._is_byte_level:
            table = _byte_table()
            try:
                return bytes(table[character] for character in piece)
            except KeyError:  # an added token, which is written as it is
                return piece.encode()
        byte = _BYTE.fullmatch(piece)
        return bytes.fromhex(byte[1]) if byte else piece.replace(SPACE, " ").encode()

    def _check(self) -> None:
        known = {token for token in self.tokens if len(token) == 1}
        missing = next((value for value in range(256) if bytes([value]) not in known), None)
        if missing is not None:
            raise ArgumentError(
                f"`constraint` needs a vocabulary with a token for each byte; this one has none "
                f"for 0x{missing:02X}. Use the tokenizer files of the release."
            )

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.tokens[number] for number in ids if number < len(self.tokens))

    def text_of(self, ids: Iterable[int]) -> str:
        """Their text, with U+FFFD for bytes that are no character."""
        return self.bytes_of(ids).decode(errors="replace")

    def ids_of(self, text: str) -> list[int]:
        """Tokens that write this text and nothing else, as the tokenizer would cut it there."""
        model = self._backend.model
        if self._is_byte_level:
            pieces = [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]
            return [token.id for piece in pieces for token in model.tokenize(piece)]
        # SentencePiece cannot tell "▁" from a space; in bytes it can be written.
        in_bytes = [model.token_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        ids: list[int] = []
        for number, part in enumerate(text.split(SPACE)):
            ids += in_bytes if number else ()
            ids += [token.id for token in model.tokenize(part.replace(" ", SPACE))]
        return ids


class Verbatim:
    """A processor that reads answers as their tokens are spelt: nothing is stripped, cleaned or cut
    off but the terminator, so that the text is what the constraint was kept to."""

    text_only_grows = True
    clean_ups: Sequence[tuple[str, str]] = ()
    ignored_ids: Collection[int] = ()
    leading_id: int | None = None

    def __init__(self, processor: Processor, spelling: Spelling):
        self.tokenizer = processor.tokenizer
        self.compat = processor.compat
        self.terminator_ids = processor.terminator_ids
        self.release: TextRelease = replace(processor.release, stop_texts=())
        self._processor = processor
        self._spelling = spelling

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        return self._processor.apply_chat_template(conversation, **options)

    def question(self, conversation: Any) -> list[dict[str, Any]]:
        return self._processor.question(conversation)

    def decode_answer(self, output_ids: Any, *, strip: bool = True) -> str:
        ends = set(self.terminator_ids)
        return self.text_of(list(takewhile(lambda number: number not in ends, output_ids)))

    def text_of(self, ids: Sequence[int]) -> str:
        """Text of tokens; of one that stands for something, its name."""
        spelt = b""
        for number in ids:
            own = self._spelling.bytes_of([number])
            spelt += own or str(self.tokenizer.convert_ids_to_tokens(number)).encode()
        return spelt.decode(errors="replace")


def bytes_of_part(piece: str) -> bytes | None:
    """The bytes of a token with a part of a character, of either kind of vocabulary; None: it has
    none but whole ones.
    """
    byte = _BYTE.fullmatch(piece)
    if byte:
        return bytes.fromhex(byte[1])
    table = _byte_table()
    return bytes(map(table.__getitem__, piece)) if table.keys() >= set(piece) else None


@cache
def _byte_table() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    table = {chr(value): value for value in printable}
    return table | {chr(256 + place): value for place, value in enumerate(others)}
