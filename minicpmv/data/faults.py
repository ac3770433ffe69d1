"""What can be wrong with a row of training data, said with its row and field."""

from collections.abc import Sequence
from dataclasses import dataclass

FAULT_KINDS: dict[str, str] = {
    "not_a_row": "the row cannot be read, or is not an object with the keys of its format",
    "wrong_roles": "user and assistant do not take turns, or a role is not known",
    "empty_answer": "an answer is blank",
    "no_answer": "no assistant's message ends the conversation",
    "placeholder_without_picture": "the text names a picture that the row does not have",
    "picture_without_placeholder": "the row has a picture that its text does not name",
    "missing_picture": "the file of a picture is not there, or a picture has no source",
    "unreadable_picture": "the file of a picture cannot be decoded",
    "unknown_field": "a key would have no effect",
    "wrong_type": "a value has another type than its format says",
    "too_long": "the row has more tokens than the limit",
    "cut_in_picture": "the limit would cut the row inside of a picture",
    "template": "the chat template of the model refuses the row",
    "text_model_with_picture": "the model does not see pictures",
    "same_answers": "the chosen and the rejected answer are the same",
    "nothing_trained": "no token of the row would be trained",
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row.

    Args:
        row: its number in the file, from 0.
        field: where, "conversations[2].content"; of a row that is no JSON, its line.
        kind: a key of FAULT_KINDS.
        message: what was found, what was expected, and what to do.
    """

    row: int
    field: str
    kind: str
    message: str

    def __str__(self) -> str:
        place = f"row {self.row}, {self.field}" if self.field else f"row {self.row}"
        return " ".join(f"{place}: {self.message}".split())  # a path may hold line breaks


class DataError(ValueError):
    """Rows that cannot be trained on.

    Args:
        faults: some of the faults, in the order of the file.
        total: how many there are; None: as many as `faults`.
        check: the command that lists all.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        total: int | None = None,
        check: str = "minicpmv data check FILE --model M",
    ):
        self.faults = tuple(faults)
        self.total = len(self.faults) if total is None else total
        more = f" ({self.total - 1} more: {check})" if self.total > 1 else ""
        super().__init__(f"{self.faults[0]}{more}")
