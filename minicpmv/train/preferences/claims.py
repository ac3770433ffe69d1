"""An answer to claims, and each claim to a question that yes or no answers (RLAIF-V, "divide").

The rules here know sentences that list things, as nano's descriptions do, and plain sentences:

    A red circle, 2 blue stars and the word "CAT".     A red circle.  2 blue stars.  the word "CAT"
    The door is not open. It was green.                The door is not open.  It was green.

A question keeps tense and negation of its claim. What is in quotation marks is never parted.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from ...errors import short

POLAR = " Please answer yes or no."
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”')
_ENDS = re.compile(r"(?<=[.!?;])\s+|\n+|[。！？；]")
_COMMAS = re.compile(r",\s+and\s+|,\s+|\s+and\s+|[，、]")
_THING = re.compile(
    r"(?:an?|the|one|two|three|four|five|six|seven|eight|nine|ten|no|some|several|many|\d+)\s",
    re.IGNORECASE,
)
_AUXILIARIES = "is|are|was|were|has|have|had|can|could|will|would|do|does|did|may|might|must|should"
_VERB = re.compile(rf"\s({_AUXILIARIES})\s", re.IGNORECASE)


class Splitter(Protocol):
    """Makes claims of an answer, and a question of a claim."""

    def claims(self, question: str, answer: str) -> list[str]: ...

    def question(self, claim: str) -> str: ...


class Rules:
    """The splitter that needs no model."""

    def claims(self, question: str, answer: str) -> list[str]:
        """The claims of an answer, in order; `question` is what was asked."""
        return claims_of(answer)

    def question(self, claim: str) -> str:
        return question_of(claim)


class Given(Rules):
    """A function of the user makes the claims."""

    def __init__(self, split: Callable[[str], list[str]]) -> None:
        self.split = split

    def claims(self, question: str, answer: str) -> list[str]:
        found = self.split(answer)
        if not isinstance(found, Iterable):
            raise ValueError(f"The splitter gave {short(found)}; it must give a list of claims.")
        return [str(claim) for claim in found]


def splitter_named(name: str) -> Splitter:
    """The rules, or those of `module:function`.

    Raises:
        ValueError: there is no such function.
    """
    if name == "rules":
        return Rules()
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"There is no splitter {name!r}: {error}.") from error
    if not callable(found):
        raise ValueError(f"{name!r} is no function; it must take an answer and give its claims.")
    return Given(found)


def claims_of(answer: str) -> list[str]:
    """Sentences, and of those that list things, the things."""
    hidden, quotes = _without_quotes(answer)
    claims: list[str] = []
    for sentence in _ENDS.split(hidden):
        text = sentence.strip()
        if text.strip(".!?; "):
            claims += _parts(text, quotes)
    return claims


def rewritten(answer: str, changes: Mapping[str, str]) -> str:
    """The answer with some of its claims changed into others.

    A red circle and a cup. It rains.     with {"A cup.": "A thing."}
    A red circle and a thing. It rains.
    """
    hidden, quotes = _without_quotes(answer)
    made = []
    pieces = [*re.split(f"({_ENDS.pattern})", hidden), ""]
    for sentence, end in zip(pieces[0::2], pieces[1::2], strict=True):
        text = sentence.strip()
        parts = _listed(text) if text.strip(".!?; ") else []
        if parts is None:
            text = changes.get(_restored(text, quotes), text)
        place = 0
        for part in parts or ():
            place = text.index(part, place)
            new = changes.get(_claim(part, quotes))
            if new is not None:
                new = new.rstrip(".!?; ")
                new = new if part[:1].isupper() else f"{new[:1].lower()}{new[1:]}"
                text = text[:place] + new + text[place + len(part) :]
            place += len(part if new is None else new)
        made.append(text + end)
    return _restored("".join(made), quotes).strip()


def _parts(sentence: str, quotes: list[str]) -> list[str]:
    """The things that a sentence lists, or the whole sentence."""
    parts = _listed(sentence)
    if parts is None:
        return [_restored(sentence, quotes)]
    return [_claim(part, quotes) for part in parts]


def _listed(sentence: str) -> list[str] | None:
    """The things that a sentence lists; None where it does something else."""
    body = sentence.rstrip(".!?; ")
    parts = [part.strip() for part in _COMMAS.split(body) if part.strip()]
    is_list = not _VERB.search(f" {body} ") and all(_THING.match(part + " ") for part in parts)
    return parts if is_list else None


def _claim(part: str, quotes: list[str]) -> str:
    text = _restored(part, quotes)
    return text if text.endswith(('"', "”")) else f"{text[0].upper()}{text[1:]}."


def question_of(claim: str) -> str:
    """A question that yes answers where the claim holds, with `POLAR` behind it."""
    body = claim.strip().rstrip(".!?; ")
    hidden, quotes = _without_quotes(body)
    verb = _VERB.search(f" {hidden} ")
    if verb:
        asked = _turned(hidden, verb)
    elif _is_thing(hidden):
        is_one = hidden.split()[0].lower() in ("a", "an", "one", "1", "the")
        thing = hidden[0].lower() + hidden[1:]
        asked = f"{'Is' if is_one else 'Are'} there {thing} in the picture?"
    else:
        asked = f"Is it true that {hidden[:1].lower()}{hidden[1:]}?"
    return _restored(asked, quotes) + POLAR


def opposite_of(claim: str) -> str:
    """A question that no answers where the claim holds."""
    body = claim.strip().rstrip(".!?; ")
    hidden, quotes = _without_quotes(body)
    text = hidden[:1].lower() + hidden[1:]
    if not _VERB.search(f" {hidden} ") and _is_thing(hidden):
        bare = re.sub(r"^(?:an?|the)\s+", "", text)
        verb = "Is" if text != bare else "Are"
        asked = f"{verb} there no {bare} in the picture?"
    else:
        asked = f"Is it false that {text}?"
    return _restored(asked, quotes) + POLAR


def _is_thing(body: str) -> bool:
    """Whether a claim is a thing alone. What begins with "the" is one if it is printed text; else
    it most often is a sentence whose verb is not known here."""
    is_known = bool(_THING.match(body + " "))
    return is_known and (not body.lower().startswith("the ") or body.endswith("\x00"))


def _turned(body: str, verb: "re.Match[str]") -> str:
    """ "The door was not open" to "Was the door not open?"."""
    place = verb.start(1) - 1  # of the text that was searched with a blank before it
    before, after = body[:place].strip(), body[place + len(verb[1]) :].strip()
    if not before:  # it is a question already
        return f"{body}?"
    return f"{verb[1].capitalize()} {before[:1].lower()}{before[1:]} {after}?"


def _without_quotes(text: str) -> tuple[str, list[str]]:
    """The text with "<0>", "<1>" in the place of what is quoted, and that."""
    quotes: list[str] = []

    def take(match: "re.Match[str]") -> str:
        quotes.append(match[0])
        return f"\x00{len(quotes) - 1}\x00"

    return _QUOTED.sub(take, text), quotes


def _restored(text: str, quotes: list[str]) -> str:
    return re.sub(r"\x00(\d+)\x00", lambda match: quotes[int(match[1])], text)


class Asked(Rules):
    """A language model behind an OpenAI-compatible address makes claims and questions.

    Args:
        complete: a prompt to an answer.
    """

    CLAIMS = (
        "Break the answer below into short statements of fact, each understandable alone, without "
        "opinions. Write one statement per line, each after '- ', and nothing else.\n\n"
        "Question: {question}\nAnswer: {answer}"
    )
    QUESTION = (
        "Turn the statement below into one question that can be answered with yes or no. Keep its "
        "tense and its negation. Write the question alone.\n\nStatement: {claim}"
    )
    MAX_WORDS = 300

    def __init__(self, complete: Callable[[str], str]) -> None:
        self.complete = complete

    def claims(self, question: str, answer: str) -> list[str]:
        words = answer.split(" ")[: self.MAX_WORDS]
        found = self.complete(self.CLAIMS.format(question=question, answer=" ".join(words)))
        lines = [line.strip() for line in found.splitlines()]
        return [line[2:].strip() for line in lines if line.startswith("- ") and line[2:].strip()]

    def question(self, claim: str) -> str:
        lines = self.complete(self.QUESTION.format(claim=claim)).strip().splitlines()
        if not lines:
            raise ValueError(f"The splitter's server gave no question for {json.dumps(claim)}.")
        return lines[0].strip() + POLAR


__all__ = [
    "POLAR",
    "Asked",
    "Given",
    "Rules",
    "Splitter",
    "claims_of",
    "opposite_of",
    "question_of",
    "rewritten",
    "splitter_named",
]
