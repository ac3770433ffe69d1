"""Pictures of noise, and the hashes of what the released environment resizes them to."""

from pathlib import Path
from typing import Any

from ..recording import Case


def read(folder: Path, fields: dict[str, Any]) -> Case:
    remarks = ("made_with", "picture", "sha256")
    expected: dict[str, Any] = {
        f"{row['width']}x{row['height']}-{row['seed']}": row for row in fields["rows"]
    }
    expected |= {key: v for key, v in fields.items() if key not in (*remarks, "rows")}
    return Case(
        model=folder.name,
        kind="resize",
        name="noise",
        folder=folder,
        checkpoint=folder,
        given={},
        expected=expected,
    )
