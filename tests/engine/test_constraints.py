"""Constraints: which texts they allow, and which of them are refused."""

import json
import sys
from random import Random
from typing import Any

import pytest

from minicpmv import Constraint
from minicpmv.engine.matching import Vocabulary, vocabulary_of
from minicpmv.errors import ArgumentError

from ..helpers.chats import loaded
from ..helpers.schemas import random_object

POINT = {
    "type": "object",
    "properties": {"y": {"type": "integer"}, "x": {"type": "integer"}},
    "required": ["y", "x"],
}


def matches(constraint: Constraint, text: str, release: str = "2.6") -> bool:
    """Whether an answer may be this text, and no part of it."""
    vocabulary = vocabulary_of(loaded(release).processor)
    matcher = vocabulary.matcher(constraint)
    ends = False
    for token in vocabulary.spelling.ids_of(text):
        if not matcher.num_allowed([token]):
            return False
        matcher.append(token)
        ends = matcher.is_complete or bool(matcher.allowed()[vocabulary.terminators].all())
    return ends


@pytest.mark.parametrize(
    ("constraint", "right", "wrong"),
    [
        (Constraint.json(), ["{}", '{"a": [1,null]}'], ["", "[]", "1", "{'a': 1}", '{"a":1'],),
        (Constraint.json_schema(POINT), ['{"y": 1, "x": 2}', '{"y":1,"x":-20}'],
         ['{"x": 2, "y": 1}', '{"y": 1}', '{"y": "1", "x": 2}'],),
        (Constraint.json_schema(json.dumps(POINT)), ['{"y": 1, "x": 2}'], ["{}"]),
        (Constraint.regex("a+b?"), ["a", "aab"], ["", "b", "abb", " a"]),
        (Constraint.regex("^(a|b)$"), ["a", "b"], ["ab"]),
        (Constraint.choice(["red", "red and blue", 'say "so"\n', "红"]),
         ["red", "red and blue", 'say "so"\n', "红"], ["re", "red and", "blue"]),
        (Constraint.choice("red"), ["red"], ["r"]),
        (Constraint.grammar('start: "a" word+\nword: /[a-z]/'), ["ab", "abc"], ["a", "b"]),
        (Constraint.grammar('root ::= "a" word+\nword ::= [a-z]'), ["ab", "abc"], ["a", "b"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("release", ["2.5", "2.6", "2.0", "omnilmm-12b"])
def test_texts_that_match(
    constraint: Constraint, right: list[str], wrong: list[str], release: str
) -> None:
    assert [text for text in right if not matches(constraint, text, release)] == []
    assert [text for text in wrong if matches(constraint, text, release)] == []


@pytest.mark.parametrize("white", ["  ", "\n", "\t", "\r", "\u00a0"])
@pytest.mark.parametrize("text", ['{W"y": 1, "x": 2}', '{"y":W1, "x": 2}', '{"y": 1,W"x": 2}',
                                  'W{"y": 1, "x": 2}', '{"y": 1, "x": 2W}'])  # fmt: skip
def test_white_space_cannot_go_on(text: str, white: str) -> None:
    for constraint in (Constraint.json(), Constraint.json_schema(POINT)):
        assert matches(constraint, '{"y": 1, "x": 2}')
        assert not matches(constraint, text.replace("W", white))


def test_an_answer_may_end_where_the_grammar_may() -> None:
    vocabulary = vocabulary_of(loaded("2.6").processor)
    matcher = vocabulary.matcher(Constraint.choice(["a", "ab"]))
    (a,), (b,) = vocabulary.spelling.ids_of("a"), vocabulary.spelling.ids_of("b")
    assert not (matcher.allowed() & vocabulary.terminators).any()
    matcher.append(a)
    assert matcher.allowed()[vocabulary.terminators].all()
    assert matcher.allowed().sum() == 1 + vocabulary.terminators.sum()
    assert not matcher.is_complete
    assert matcher.num_allowed([b, b]) == 1
    matcher.append(b)
    assert matcher.is_complete
    with pytest.raises(ValueError, match="The constraint cannot be followed any further"):
        matcher.append(a)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constraint.json_schema({"not": {}}), 'kept to: Unimplemented keys: ["not"].'),
        (lambda: Constraint.json_schema({"oneOf": [{"type": "number"}, {"type": "integer"}]}),
         "kept to: oneOf has schemas that may match at once; send anyOf."),
        (lambda: Constraint.json_schema({"type": "list"}), "kept to: Invalid type: list."),
        (lambda: Constraint.json_schema({"enum": []}), "Unsatisfiable schema: anyOf is empty."),
        (lambda: Constraint.json_schema({"format": "song", "type": "string"}), "format: song."),
        (lambda: Constraint.json_schema({"$ref": "#/$defs/a"}), "Pointer '/$defs/a' does not"),
        (lambda: Constraint.json_schema({"$ref": "http://127.0.0.1/a"}), "not fetch resources."),
        (lambda: Constraint.json_schema({"x-guidance": {}}), "has x-guidance; white space is set"),
        (lambda: Constraint.json_schema("{"), "The schema of constraint is no JSON: Expecting"),
        (lambda: Constraint.json_schema([1]), "is [1]; expected a JSON object"),  # type: ignore
        (lambda: Constraint.json_schema({"enum": [float("nan")]}), "cannot be written as JSON"),
        (lambda: Constraint.regex("a\ud800"), "has half a character (a lone surrogate)."),
        (lambda: Constraint.choice(["\udc00"]), "has half a character (a lone surrogate)."),
        (lambda: Constraint.regex("("), "cannot be kept to: unclosed group."),
        (lambda: Constraint.regex("a(?=b)"), "look-around, including look-ahead"),
        (lambda: Constraint.regex(""), "is ''; expected a text that is not empty."),
        (lambda: Constraint.choice([]), "is []; expected texts, none of them empty."),
        (lambda: Constraint.choice(["a", ""]), "expected texts, none of them empty."),
        (lambda: Constraint.grammar("a b c"), "neither Lark with a rule start, nor GBNF: "),
        (lambda: Constraint.grammar('start: "a'), "cannot be kept to: "),
        (lambda: Constraint("poem", "a"), "kind of constraint is 'poem'; expected 'json', "),  # type: ignore
    ],
)  # fmt: skip
def test_what_cannot_be_kept_to_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        make()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_many_answers_do_not_use_a_constraint_up() -> None:
    """Its lexer has a state for each of the last 15 letters, of which there may be a thousand."""
    vocabulary = Vocabulary(loaded("2.6").processor, most_states=20_000)
    constraint = Constraint.regex("(a|b)*a(a|b){14}c")
    letters = [token for text in "ab" for token in vocabulary.spelling.ids_of(text)]
    rng = Random(0)
    matchers = [vocabulary.matcher(constraint) for _ in range(3)]
    for _ in range(10):
        for matcher in [*matchers, vocabulary.matcher(constraint)]:
            for token in rng.choices(letters, k=200):
                assert matcher.allowed()[letters].all()
                matcher.append(token)
    known = vocabulary.compiled(constraint)
    assert vocabulary.compiled(constraint, failed=None) is known
    assert vocabulary.compiled(constraint, failed=known) is not known


def test_an_empty_answer_is_refused() -> None:
    for pattern in ("(?:)", "a{0}", "^$"):
        with pytest.raises(ArgumentError, match=r"regex of .*: only an empty answer"):
            Constraint.regex(pattern)


def test_a_grammar_can_write_no_tag() -> None:
    vocabulary = vocabulary_of(loaded("2.6").processor)
    tag = loaded("2.6").processor.tokenizer.convert_tokens_to_ids("<image>")
    for text in ("start: <image>", f"start: <[{tag}]>"):
        with pytest.raises(ValueError, match="constraint"):
            vocabulary.matcher(Constraint.grammar(text))


def test_equal_constraints_are_compiled_once() -> None:
    vocabulary = vocabulary_of(loaded("2.6").processor)
    assert vocabulary is vocabulary_of(loaded("2.6").processor)
    assert vocabulary is not vocabulary_of(loaded("2.5").processor)
    schema, _ = random_object(Random(3))
    one, same = Constraint.json_schema(schema), Constraint.json_schema(json.dumps(schema))
    assert one == same
    assert hash(one) == hash(same)
    vocabulary.matcher(one)
    assert vocabulary.num_compiled <= 32
    number = vocabulary.num_compiled
    vocabulary.matcher(same)
    assert vocabulary.num_compiled == number
    for value in range(40):
        vocabulary.matcher(Constraint.choice([str(value)]))
    assert vocabulary.num_compiled == 32
    turned = dict(reversed(POINT["properties"].items()))  # type: ignore[attr-defined]
    assert Constraint.json_schema(POINT) != Constraint.json_schema(POINT | {"properties": turned})


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    for make in (Constraint.json, lambda: Constraint.grammar("start: /a/")):
        with pytest.raises(ImportError) as raised:
            make()
        assert str(raised.value) == (
            "constraint needs llguidance, which is not installed: pip install 'minicpmv[serve]'"
        )
