"""One question of a benchmark, as every source gives it and every metric scores it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

# Undecoded as long as possible: bytes of a file, or where the file lies.
Picture: TypeAlias = bytes | Path | Image.Image


@dataclass(frozen=True)
class Item:
    """A question with its pictures.

    Fields:
        id: unique within a page; the data's own index.
        answers: the references; none where the split hides them.
        options: letter -> text of a choice, in order; empty where it is none.
        fields: every other column of the row, as JSON values.
        video: the file or the folder of frames that is asked about.
    """

    id: str
    question: str
    pictures: tuple[Picture, ...] = ()
    answers: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    video: Path | None = None
