"""Which tokens an answer under a constraint may go on with.

A `Vocabulary` is what llguidance knows of one tokenizer: the bytes of each token, as a trie. A
constraint is compiled once for it, in the thread of who asks, and copied for each answer.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..errors import ArgumentError, first_line
from .constraints import Constraint, limits, llguidance, refused
from .protocols import Processor
from .spelling import Spelling, Verbatim

_MOST_COMPILED = 32  # constraints that each vocabulary remembers
_MOST_STATES = 50_000  # of the lexer of one, at some hundred bytes each
_APART = 8  # tokens between two new starts of one answer
_MOST_LOOKED_AHEAD = 256  # characters that are fixed and cut into tokens at a time

Result = TypeVar("Result")


class Matcher:
    """How far one answer has come in its constraint; used by one thread at a time.

    Copies of a compiled constraint share the states of its lexer, which are made as they are needed
    and never forgotten. Where they become too many, because of one answer or of thousands, all
    copies fail for good; each begins again with a new one.

    Attributes:
        is_complete: whether nothing but the end can follow.
    """

    def __init__(self, vocabulary: "Vocabulary", constraint: Constraint, compiled: Any):
        self.is_complete = False
        self._vocabulary = vocabulary
        self._constraint = constraint
        self._compiled = compiled
        self._state = compiled.deep_copy()
        self._ids: list[int] = []
        self._num_safe = -_APART  # tokens at the last new start

    def allowed(self) -> np.ndarray:
        """bool (tokens of the vocabulary,): those that may come next; a terminator where the answer
        may end.

        Raises:
            ValueError: the constraint became too complex, or nothing can follow.
        """
        mask = self._asked(lambda state: state.compute_bitmask())
        written = self._vocabulary.may_be_written
        bits = np.frombuffer(mask, dtype=np.uint8)[: len(written)] & written
        own = np.unpackbits(bits, bitorder="little")
        allowed: np.ndarray = own[: self._vocabulary.size].view(np.bool_)
        if not allowed.any():
            raise ArgumentError("No token of the vocabulary can follow; the constraint has no end.")
        return allowed

    def append(self, token: int) -> None:
        """Go on by one token that was allowed.

        Raises:
            ValueError: it was not.
        """
        self._asked(lambda state: state.consume_token(token))
        self._ids.append(token)
        self.is_complete = self._state.is_stopped()

    def forced(self) -> list[int]:
        """The next tokens, as far as there is no choice; at most a few hundred."""
        return self._asked(lambda state: state.compute_ff_tokens())

    def num_allowed(self, ids: Sequence[int]) -> int:
        """How many of these tokens, from the first, could come next."""
        return self._asked(lambda state: int(state.validate_tokens(list(ids))))

    def _asked(self, work: Callable[[Any], Result]) -> Result:
        result = work(self._state)
        if self._state.is_error() and len(self._ids) >= self._num_safe + _APART:
            self._num_safe = len(self._ids)
            self._compiled = self._vocabulary.compiled(self._constraint, failed=self._compiled)
            self._state = self._compiled.deep_copy()
            self._state.consume_tokens(self._ids)
            result = work(self._state)
        if self._state.is_error():
            reason = first_line(ValueError(self._state.get_error())).rstrip(".")
            raise ArgumentError(f"The constraint cannot be followed any further: {reason}.")
        return result


class Vocabulary:
    """The tokens of a processor as constraints see them.

    Attributes:
        spelling: their bytes.
        size: how many there are.
        terminators: bool (size,).

    Args:
        most_states: of the lexer of a constraint, before it is made again.
    """

    def __init__(self, processor: Processor, most_states: int = _MOST_STATES):
        self.spelling = Spelling(processor.tokenizer)
        self.size = len(self.spelling.tokens)
        ends = processor.terminator_ids
        self.terminators = np.zeros(self.size, dtype=np.bool_)
        self.terminators[ends] = True
        writes = np.array([bool(token) for token in self.spelling.tokens]) | self.terminators
        self.may_be_written = np.packbits(writes, bitorder="little")
        library = llguidance()
        self._library = library
        self._limits = limits(max_lexer_states=most_states)
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
        matcher = Matcher(self, constraint, self.compiled(constraint))
        try:
            first = matcher.allowed()
        except ValueError as error:
            raise refused(constraint, str(error)) from None
        if not (first & ~self.terminators).any():
            raise refused(constraint, "only an empty answer matches")
        return matcher

    def compiled(self, constraint: Constraint, failed: Any = None) -> Any:
        """What matchers are copies of, made once.

        Args:
            failed: not this one, which has too many states.

        Raises:
            ArgumentError: as of `matcher`.
        """
        with self._lock:
            known = self._compiled.get(constraint)
            if known is not None and known is not failed:
                self._compiled.move_to_end(constraint)
                return known
        new = self._library.LLMatcher(
            self._tokenizer, constraint.compiled(), log_level=0, limits=self._limits
        )
        if new.is_error():
            raise refused(constraint, new.get_error())
        with self._lock:
            self._compiled[constraint] = new
            while len(self._compiled) > _MOST_COMPILED:
                self._compiled.popitem(last=False)
        return new


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
        return self._spelling.ids_of(text[:_MOST_LOOKED_AHEAD])


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
