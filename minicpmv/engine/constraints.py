"""What an answer must match: JSON, a schema, a regular expression, one of some texts, a grammar.

A `Constraint` is checked when it is made, and is then an option like any other. `matching.py` makes
it the tokens that may come next. llguidance (Earley parser over derivatives of regular expressions)
does the work; it is in the extra `serve`. This file imports it, and what it needs, when the first
constraint is made, so that `--help` stays light.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ..errors import ArgumentError, short
from .schemas import OBJECT, with_finite_numbers

Kind = Literal["json", "json_schema", "regex", "choice", "grammar"]

# JSON on one line, with or without a space after a comma and a colon: white space that may go on
# for ever would let an answer go on for ever.
_JSON = {
    "whitespace_flexible": False,
    "whitespace_pattern": None,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "coerce_one_of": False,
    "lenient": False,
}


@dataclass(frozen=True)
class Constraint:
    """What the whole text of an answer matches, unless it is cut short by its length, its time or a
    text of `stop`.

    Make one with the methods that have the names of the kinds. JSON is written on one line.
    Strings and arrays may be as long as the schema lets them (`maxLength`, `maxItems`): give
    limits, or the answer may come to `max_new_tokens` before its end. Numbers without limits are
    those of `schemas.with_finite_numbers`.

    Fields:
        kind: "json": any JSON object; "json_schema"; "regex"; "choice"; "grammar".
        text: "" for "json"; the schema; the expression; a JSON list of texts; the grammar in Lark.

    Raises:
        ArgumentError: it is not understood, or what it asks for cannot be kept to.
        ImportError: llguidance is not installed.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(
                f"The {self.kind} of `constraint` has half a character (a lone surrogate). Remove "
                "it."
            ) from None
        matcher = llguidance().LLMatcher(_bytes(), self.compiled(), log_level=0, limits=limits())
        first = matcher.compute_bitmask()  # builds what it needs for the first token
        matcher = matcher.deep_copy()
        matcher.compute_bitmask()  # a limit that was passed shows the second time
        if matcher.is_error():
            raise refused(self, matcher.get_error())
        if not any(first[:_END]) and first[_END] & 1:
            raise refused(self, "only an empty answer matches")

    @classmethod
    def json(cls) -> "Constraint":
        """Any JSON object."""
        return cls("json", "")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> "Constraint":
        """JSON of a schema (draft 2020-12), as a mapping or as JSON. Properties come in its order.

        What llguidance cannot enforce (`uniqueItems`, `not`, `if`, unknown `format`s ...) is
        refused; words that JSON Schema does not know are ignored.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise ArgumentError(f"The schema of `constraint` is no JSON: {error}.") from None
        if not isinstance(schema, Mapping):
            raise ArgumentError(
                f"The schema of `constraint` is {short(schema)}; expected a JSON object such as "
                '{"type": "object", "properties": {...}}.'
            )
        try:
            text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                f"The schema of `constraint` cannot be written as JSON: {error}."
            ) from None
        return cls("json_schema", text)

    @classmethod
    def regex(cls, pattern: str) -> "Constraint":
        """A text that a regular expression (of Rust's crate `regex`) matches as a whole.

        There is no looking around and no back reference; "." is any character but a line feed.
        """
        return cls("regex", _checked_text("regex", pattern))

    @classmethod
    def choice(cls, texts: Iterable[str]) -> "Constraint":
        """One of these texts."""
        choices = [texts] if isinstance(texts, str) else list(texts)
        if not choices or not all(isinstance(text, str) and text for text in choices):
            raise ArgumentError(
                f"The choice of `constraint` is {short(choices)}; expected texts, none of them "
                "empty."
            )
        unique = list(dict.fromkeys(choices))
        return cls("choice", json.dumps(unique, ensure_ascii=False))

    @classmethod
    def grammar(cls, text: str) -> "Constraint":
        """A context-free grammar in Lark's syntax as llguidance reads it, beginning at `start`, or
        in llama.cpp's GBNF, beginning at `root`."""
        from llguidance.gbnf_to_lark import is_lark_syntax

        llguidance()
        _checked_text("grammar", text)
        return cls("grammar", text if is_lark_syntax(text) else _lark_of_gbnf(text))

    def compiled(self) -> str:
        """The grammar as llguidance takes it; not checked."""
        matcher = llguidance().LLMatcher
        match self.kind:
            case "json":
                return matcher.grammar_from_json_schema(OBJECT, overrides=_JSON)
            case "json_schema":
                schema = json.loads(self.text)
                if "x-guidance" in schema:
                    raise ArgumentError(
                        "The schema of `constraint` has `x-guidance`; white space is set here. "
                        "Remove it."
                    )
                return matcher.grammar_from_json_schema(
                    json.dumps(with_finite_numbers(schema)), overrides=_JSON
                )
            case "regex":
                return matcher.grammar_from_regex(self.text)
            case "choice":
                texts = (json.dumps(text) for text in json.loads(self.text))
                return matcher.grammar_from_lark(f"start: {' | '.join(texts)}")
            case "grammar":
                return matcher.grammar_from_lark(self.text)
        raise ArgumentError(
            f"The kind of `constraint` is {self.kind!r}; expected 'json', 'json_schema', 'regex', "
            "'choice' or 'grammar'."
        )


_MOST_FUEL = 200_000
_END = 32  # the byte of a mask that begins with the end of the text


class _Bytes:
    """A vocabulary of single bytes, and the end."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"\xff<end>")

    def __call__(self, text: str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def _bytes() -> Any:
    """For constraints that are not of a model yet."""
    library = llguidance()
    return library.LLTokenizer(library.TokenizerWrapper(_Bytes()))


def limits(**more: int) -> Any:
    """What a constraint may take: a fifth of the library's own limit for what is done once, so that
    an expression of a hundred characters cannot keep everybody waiting for a second."""
    return llguidance().LLParserLimits(initial_lexer_fuel=_MOST_FUEL, verbose_errors=False, **more)


def llguidance() -> Any:
    """The library.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import llguidance as library
    except ImportError:
        raise ImportError(
            "constraint needs llguidance, which is not installed: pip install 'minicpmv[serve]'"
        ) from None
    return library


def refused(constraint: Constraint, error: str) -> ArgumentError:
    """What the library says of a constraint, in one line."""
    lines = [line.strip() for line in error.strip().splitlines()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = (own or lines or ["no reason given"])[0].rstrip(".")
    if "coerce_one_of" in reason:
        reason = "oneOf has schemas that may match at once; send anyOf"
    name = {"json_schema": "schema"}.get(constraint.kind, constraint.kind)
    return ArgumentError(f"The {name} of `constraint` cannot be kept to: {reason}.")


def _checked_text(kind: str, text: Any) -> str:
    if not isinstance(text, str) or not text:
        raise ArgumentError(
            f"The {kind} of `constraint` is {short(text)}; expected a text that is not empty."
        )
    return text


def _lark_of_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark: str = gbnf_to_lark(text)
    except Exception as error:  # all that its parser raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArgumentError(
            f"The grammar of `constraint` is neither Lark with a rule `start`, nor GBNF: {reason}."
        ) from None
    return lark
