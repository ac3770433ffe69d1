"""`/v1/decisions` as OpenAI's clients write it: questions about text and pictures, answered with
probabilities.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag

from .base import Body
from .kinds import kind_of, known_kinds
from .openai import MediaSettings
from .parts import text_or, text_or_list, text_or_truth
from .responses import Input

MAX_QUESTIONS = 64
MAX_CHOICES = 26

Label = Annotated[str, StringConstraints(min_length=1, max_length=512)]


def with_json_as_text(value: Any) -> Any:
    """Parts of type `input_json` as text; whatever else is wrong is said by others."""
    if isinstance(value, list):
        return [with_json_as_text(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "input_json" and isinstance(value.get("data"), dict | list):
        text = json.dumps(value["data"], ensure_ascii=False, separators=(",", ":"))
        return {**{k: value[k] for k in value if k != "data"}, "type": "input_text", "text": text}
    return {key: with_json_as_text(value[key]) for key in value} if "content" in value else value


class InstructionText(Body):
    """Text of a question."""

    type: Literal["input_text"]
    text: str


Instructions = Annotated[
    Annotated[Annotated[str, StringConstraints(min_length=1)], Tag("<string>")]
    | Annotated[
        list[
            Annotated[
                InstructionText,
                known_kinds(
                    "input_text", input_image="show pictures in `input`, for all questions"
                ),
            ]
        ],
        Field(min_length=1),
        Tag("<parts>"),
    ],
    Discriminator(text_or("<parts>")),
    text_or_list(),
    BeforeValidator(with_json_as_text),
]


class Predicate(Body):
    """How likely it is that a statement is true, or that the answer to a question is yes."""

    type: Literal["predicate"]
    name: str | None = None
    instructions: Instructions


class ChoiceValue(Body):
    """One of the choices; `true` and "true" are two."""

    value: Annotated[
        Annotated[Label, Tag("<string>")] | Annotated[bool, Tag("<bool>")],
        Discriminator(text_or("<bool>")),
        text_or_truth(),
    ]
    description: str | None = None


class Choice(Body):
    """Which of several choices the answer is."""

    type: Literal["choice"]
    name: str | None = None
    instructions: Instructions
    choices: Annotated[list[ChoiceValue], Field(min_length=2, max_length=MAX_CHOICES)]


class Level(Body):
    """A level of a score."""

    label: Label
    description: str | None = None


class Score(Body):
    """Which of several levels, the lowest first, is right."""

    type: Literal["score"]
    name: str | None = None
    instructions: Instructions
    levels: Annotated[list[Level], Field(min_length=2, max_length=MAX_CHOICES)]


Question = Annotated[
    Annotated[Predicate, Tag("<predicate>")]
    | Annotated[Choice, Tag("<choice>")]
    | Annotated[Score, Tag("<score>")],
    Discriminator(kind_of()),
    known_kinds("predicate", "choice", "score"),
]


class DecisionsRequest(Body):
    """Questions about one input.

    Fields:
        list_choices: writes choices and levels below their question. Left out, those of a question
            are written where one of them has a description.
        average_orders: asks with the written choices in several orders, and takes the mean.
    """

    model: str
    input: Annotated[Input, BeforeValidator(with_json_as_text)]
    questions: Annotated[list[Question], Field(min_length=1, max_length=MAX_QUESTIONS)]
    list_choices: bool | None = None
    average_orders: bool | None = None
    mm_processor_kwargs: MediaSettings | None = None
    prompt_cache_key: str | None = Field(None, description="Without effect.")
    prompt_cache_options: dict[str, Any] | None = Field(None, description="Without effect.")
    safety_identifier: str | None = Field(None, description="Without effect.")
