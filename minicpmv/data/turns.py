"""What holds for the messages of every format: roles take turns, answers say something."""

from collections.abc import Sequence
from typing import Any

from ..processing.messages import is_blank
from .fields import RowError, name_of
from .messages import Conversation, Message, Preference


def conversation(
    messages: Sequence[Message], fields: Sequence[str], row: Any, number: int, rest: dict[str, Any]
) -> Conversation:
    """A checked conversation.

    Args:
        messages: its messages.
        fields: where each one stands in the row, "conversations[0]".
        row: the raw row, for its id.
        number: of the row.
        rest: other columns.

    Raises:
        RowError: see FAULT_KINDS.
    """
    _check(messages, fields)
    if messages[-1].role != "assistant":
        raise RowError(
            fields[-1],
            "no_answer",
            "the last message is not an assistant's; add the answer, or take the message out",
        )
    return Conversation(tuple(messages), number, name_of(row), rest)


def preference(
    prompt: Sequence[Message],
    fields: Sequence[str],
    answers: tuple[tuple[str, str], tuple[str, str]],
    row: Any,
    number: int,
    rest: dict[str, Any],
) -> Preference:
    """A checked preference.

    Args:
        prompt: the messages before the answer.
        fields: where each one stands in the row.
        answers: the chosen and the rejected one, each with where it stands.
        row: the raw row, for its id.
        number: of the row.
        rest: other columns.

    Raises:
        RowError: see FAULT_KINDS.
    """
    # Answers of the prompt are not trained anyway.
    prompt = [Message(message.role, message.parts) for message in prompt]
    _check(prompt, fields)
    if prompt[-1].role != "user":
        raise RowError(
            fields[-1], "wrong_roles", "the prompt ends with an answer; it must end with a user's"
        )
    for answer, field in answers:
        check_answer(answer, field)
    (chosen, _), (rejected, field) = answers
    if chosen.strip() == rejected.strip():
        raise RowError(
            field, "same_answers", "the chosen and the rejected answer are the same; take it out"
        )
    return Preference(tuple(prompt), chosen, rejected, number, name_of(row), rest)


def check_answer(answer: str, field: str) -> None:
    """Raises RowError if nothing of an answer can be seen."""
    if is_blank(answer):
        raise RowError(
            field, "empty_answer", "the answer is empty; give some text, or take the message out"
        )


def _check(messages: Sequence[Message], fields: Sequence[str]) -> None:
    expected = "user"
    for i, (message, field) in enumerate(zip(messages, fields, strict=True)):
        if message.role == "system" and i == 0:
            _check_without_pictures(message, field)
            continue
        if message.role != expected:
            raise RowError(field, "wrong_roles", _out_of_turn(message.role, expected, i))
        if message.role == "assistant":
            _check_without_pictures(message, field)
            check_answer(message.text, field)
        elif not message.pictures and is_blank(message.text):
            raise RowError(
                field, "wrong_type", "the user's message is empty; give a question or a picture"
            )
        expected = "assistant" if expected == "user" else "user"
    if not messages or messages[-1].role == "system":
        raise RowError(
            fields[-1] if fields else "", "no_answer", "there is no message of a user and no answer"
        )


def _out_of_turn(role: str, expected: str, index: int) -> str:
    if role == "system":
        return "a system message stands here; it can only be the first"
    who = {"user": "a user's", "assistant": "an assistant's"}
    wanted = "the first must be a user's" if index == 0 else f"{who[expected]} must stand here"
    return f"this is {who[role]} message; user and assistant take turns, so {wanted}"


def _check_without_pictures(message: Message, field: str) -> None:
    if message.pictures:
        raise RowError(
            message.pictures[0].field or field,
            "wrong_roles",
            f"a {message.pictures[0].kind} stands in the message of the {message.role} ({field}); "
            "only users show pictures",
        )
