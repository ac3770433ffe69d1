"""Which tokens an answer under a constraint may go on with.

A `Vocabulary` is what llguidance knows of one tokenizer: the bytes of each token, as a trie. A
constraint is compiled once for it, in the thread of who asks, and copied for each answer.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, first_line
from .constraints import Constraint, llguidance, refused
from .protocols import Processor
from .spelling import Spelling, Verbatim

_MOST_COMPILED = 64  # constraints that each vocabulary remembers


class Matcher:
    """How far one answer has come in its constraint; used by one thread at a time.

    Attributes:
        is_complete: whether nothing but the end can follow.
    """

    def __init__(self, compiled: Any, vocabulary: "Vocabulary"):
        self._state = compiled.deep_copy()
        self._vocabulary = vocabulary
        self.is_complete = False

    def allowed(self) -> np.ndarray:
        """bool (tokens of the vocabulary,): those that may come next; a terminator where the answer
        may end.

        Raises:
            ValueError: the constraint became too complex, or nothing can follow.
        """
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        self._check()
        written = self._vocabulary.may_be_written
        own = np.unpackbits(bits[: len(written)] & written, bitorder="little")
        allowed: np.ndarray = own[: self._vocabulary.size].view(np.bool_)
        if not allowed.any():
            raise ValueError("No token of the vocabulary can follow; the constraint has no end.")
        return allowed

    def append(self, token: int) -> None:
        """Go on by one token that was allowed.

        Raises:
            ValueError: it was not.
        """
        self._state.consume_token(token)
        self._check()
        self.is_complete = self._state.is_stopped()

    def forced(self) -> list[int]:
        """The next tokens, as far as there is no choice."""
        forced: list[int] = self._state.compute_ff_tokens()
        self._check()
        return forced

    def num_allowed(self, ids: Sequence[int]) -> int:
        """How many of these tokens, from the first, could come next."""
        return int(self._state.validate_tokens(list(ids)))

    def _check(self) -> None:
        if self._state.is_error():
            reason = first_line(ValueError(self._state.get_error())).rstrip(".")
            raise ValueError(f"The constraint cannot be followed any further: {reason}.")


class Vocabulary:
    """The tokens of a processor as constraints see them.

    Attributes:
        spelling: their bytes.
        size: how many there are.
        terminators: bool (size,).
    """

    def __init__(self, processor: Processor):
        self.spelling = Spelling(processor.tokenizer)
        self.size = len(self.spelling.tokens)
        ends = processor.terminator_ids
        self.terminators = np.zeros(self.size, dtype=np.bool_)
        self.terminators[ends] = True
        writes = np.array([bool(token) for token in self.spelling.tokens]) | self.terminators
        self.may_be_written = np.packbits(writes, bitorder="little")
        library = llguidance()
        self._library = library
        self._tokenizer = library.LLTokenizer(
            library.TokenizerWrapper(_ForLibrary(self.spelling, ends)), eos_token=ends
        )
        self._compiled: OrderedDict[Constraint, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_compiled(self) -> int:
        """Constraints that are remembered."""
        return len(self._compiled)

    def reader(self, processor: Processor) -> Processor:
        """The processor that reads answers as these tokens are spelt."""
        return Verbatim(processor, self.spelling)

    def matcher(self, constraint: Constraint) -> Matcher:
        """At the beginning of an answer.

        Raises:
            ArgumentError: the constraint cannot be kept to with these tokens.
        """
        with self._lock:
            compiled = self._compiled.get(constraint)
            if compiled is not None:
                self._compiled.move_to_end(constraint)
        if compiled is None:
            compiled = self._library.LLMatcher(self._tokenizer, constraint.compiled(), log_level=0)
            if compiled.is_error():
                raise refused(constraint, compiled.get_error())
            if not (Matcher(compiled, self).allowed() & ~self.terminators).any():
                raise refused(constraint, "only an empty answer matches")
            with self._lock:
                self._compiled[constraint] = compiled
                while len(self._compiled) > _MOST_COMPILED:
                    self._compiled.popitem(last=False)
        return Matcher(compiled, self)


class _ForLibrary:
    """A tokenizer as `llguidance.TokenizerWrapper` asks for it."""

    bos_token_id = None

    def __init__(self, spelling: Spelling, terminator_ids: Sequence[int]):
        self._spelling = spelling
        self.eos_token_id = terminator_ids[0]
        self.special_token_ids = list(terminator_ids)
        self.tokens = list(spelling.tokens)
        for number in terminator_ids:  # 0xFF begins no text: no constraint can write it
            self.tokens[number] = b"\xff<end of the answer %d>" % number

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"The text is {type(text).__name__}; expected str.")
        return self._spelling.ids_of(text)


_VOCABULARIES: "weakref.WeakKeyDictionary[Any, dict[Any, Vocabulary]]" = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()  # held while one is made, which takes a second where there are many tokens


def vocabulary_of(processor: Processor) -> Vocabulary:
    """The vocabulary of a processor, made once.

    Raises:
        ArgumentError: it cannot be used with constraints.
    """
    tokenizer = processor.tokenizer
    if processor.compat is not None:
        raise ArgumentError(
            f"`constraint` cannot hold for answers as compat={processor.compat!r} writes them. "
            "Load the model without it."
        )
    key = (len(tokenizer), tuple(processor.terminator_ids))
    with _LOCK:
        known = _VOCABULARIES.setdefault(tokenizer, {})
        if key not in known:
            known[key] = Vocabulary(processor)
        return known[key]
