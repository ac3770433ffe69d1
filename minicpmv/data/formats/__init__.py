"""The formats of rows, and which of them a file has."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...errors import listed
from ..fields import Row
from ..media_fields import MediaReader, MediaWriter
from ..messages import Conversation, Preference
from .hugging_face import HuggingFace
from .llama_factory import LlamaFactory
from .llava import Llava
from .official import Official
from .openai import OpenAI
from .preferences import RlaifV, RlhfV, SwiftPreference, Trl
from .swift import Swift


class Format(Protocol):
    """How rows of one kind are read and written."""

    @property
    def name(self) -> str:
        """As `--format` and `--to` say it."""

    @property
    def is_preference(self) -> bool:
        """Whether a row has two answers."""

    @property
    def keys(self) -> Sequence[str]:
        """The columns that are read."""

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 3 no other."""

    def read_row(self, row: Row, number: int, media: MediaReader) -> Conversation | Preference:
        """The row of this number. Raises RowError."""

    def write_row(self, row: Any, media: MediaWriter) -> dict[str, Any]:
        """A row, without its other columns. Raises RowError where the format cannot say it."""


# Where two fit equally well, the first is taken.
FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        Official(), Llava(), LlamaFactory(), HuggingFace(), Swift(), OpenAI(),
        RlaifV(), RlhfV(), LlamaFactory(ranking=True), SwiftPreference(), Trl(),
    )
}  # fmt: skip


def format_of(name: str) -> Format:
    """The format of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"The format {name!r} is not known; known are {', '.join(FORMATS)}.")
    return FORMATS[name]


def detect(rows: Sequence[Any]) -> Format:
    """The format that fits most of some rows; of several, the one that fits them most surely.

    Args:
        rows: the first rows of a file, as they are there.

    Raises:
        ValueError: none fits any row.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    best, best_score = None, (0, 0)
    for fmt in FORMATS.values():
        scores = [fmt.fits(row) for row in objects]
        score = (sum(s > 0 for s in scores), sum(scores))
        if score > best_score:
            best, best_score = fmt, score
    if best is None:
        keys = sorted({str(key) for row in objects for key in row})
        found = f"keys {listed(keys)}" if keys else "no objects"
        raise ValueError(
            f"no known format: found {found}; known formats are {', '.join(FORMATS)}. Name one "
            "with --format, or convert the rows"
        )
    return best.for_rows(objects) if isinstance(best, LlamaFactory) else best
