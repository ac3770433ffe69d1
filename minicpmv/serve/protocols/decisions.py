"""Questions of `/v1/decisions` as those of `minicpmv.decisions`, and decisions as its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...decisions.decision import Decision
from ...decisions.question import Question
from ...errors import short
from ..errors import ApiError, from_exception
from ..schema.decisions import Choice, DecisionsRequest, Instructions, Predicate, Score

# What models answer a question with, and some a statement.
_TRUE = ("yes", "true")
_FALSE = ("no", "false")
STATEMENT = "Is this correct: {}"


def _forms(words: Sequence[str]) -> tuple[str, ...]:
    """Each with and without a capital and a full stop."""
    return tuple(
        form + end for word in words for form in (word, word.capitalize()) for end in ("", ".")
    )


@dataclass(frozen=True)
class Asked:
    """A question of a request.

    Fields:
        values: what the client calls each label.
    """

    body: Predicate | Choice | Score
    question: Question
    values: Mapping[str, str | bool]


def asked_of(body: DecisionsRequest) -> list[Asked]:
    """The questions of a request.

    Raises:
        ApiError: a choice is there twice, or an extension would have no effect; it names the field.
    """
    return [_asked(body, each, f"questions[{i}]") for i, each in enumerate(body.questions)]


def _asked(body: DecisionsRequest, each: Predicate | Choice | Score, param: str) -> Asked:
    text = _text(each.instructions)
    if not text.strip():
        param = f"{param}.instructions"
        raise ApiError(400, "invalid_value", f"{param} is blank; write a question.", param=param)
    if isinstance(each, Predicate):
        is_question = text.rstrip().endswith(("?", "？"))
        question = Question.of(
            text if is_question else STATEMENT.format(text.strip()),
            {"true": _forms(_TRUE), "false": _forms(_FALSE)},
            kind="yesno",
        )
        return Asked(each, question, {"true": True, "false": False})
    values: dict[str, str | bool]
    if isinstance(each, Choice):
        labels, param = [_label(item.value) for item in each.choices], f"{param}.choices"
        values = {_label(item.value): item.value for item in each.choices}
        told = {_label(item.value): item.description for item in each.choices}
    else:
        labels, param = [level.label for level in each.levels], f"{param}.levels"
        values = {level.label: level.label for level in each.levels}
        told = {level.label: level.description for level in each.levels}
    if len(values) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ApiError(
            400, "invalid_value", f"{param} has {short(twice)} twice; each comes once.", param=param
        )
    try:
        return Asked(each, _listed(body, each, text, values, told), _stripped(values))
    except ValueError as error:
        found = from_exception(error)
        if found.param not in DecisionsRequest.model_fields:  # it is about the choices
            found.param = param
        raise found from None


def _listed(
    body: DecisionsRequest,
    each: Choice | Score,
    text: str,
    values: Mapping[str, str | bool],
    told: Mapping[str, str | None],
) -> Question:
    descriptions = {label.strip(): text for label, text in told.items() if text}
    lists = bool(descriptions) if body.list_choices is None else body.list_choices
    return Question.of(
        text,
        {label: _spellings(value) for label, value in values.items()},
        kind="score" if isinstance(each, Score) else "choice",
        list_choices=lists,
        average_orders=bool(body.average_orders),
        descriptions=descriptions,
    )


def _text(instructions: Instructions) -> str:
    if isinstance(instructions, str):
        return instructions
    return "\n".join(part.text for part in instructions)


def _label(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _spellings(value: str | bool) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return _forms(_TRUE if value else _FALSE)


def _stripped(values: Mapping[str, str | bool]) -> dict[str, str | bool]:
    return {label.strip(): value for label, value in values.items()}


def answers_of(asked: Sequence[Asked], decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """The answers, in the order of the questions."""
    return [_answer(each, found) for each, found in zip(asked, decisions, strict=True)]


def _answer(asked: Asked, found: Decision) -> dict[str, Any]:
    body = asked.body
    head = {"type": body.type, "name": body.name}
    own = {"mass": found.mass, "calibrated": found.is_calibrated}
    if isinstance(body, Predicate):
        return {**head, "probability": found.probability, **own}
    if isinstance(body, Choice):
        return {
            **head,
            "choice": asked.values[found.choice],
            "confidence": found.confidence,
            "probabilities": [
                {"value": asked.values[label], "probability": probability}
                for label, probability in found.probabilities.items()
            ],
            **own,
        }
    return {
        **head,
        "score": found.score,
        "confidence": found.confidence,
        "probabilities": [
            {"label": asked.values[label], "value": level, "probability": probability}
            for level, (label, probability) in enumerate(found.probabilities.items())
        ],
        **own,
    }


def usage_of(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Tokens of all prompts; nothing is generated."""
    read = sum(each.num_input_tokens for each in decisions)
    cached = sum(each.num_cached_tokens for each in decisions)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read,
    }
