"""Edit distances, by rapidfuzz."""

from collections.abc import Sequence
from typing import Any


def edit_distance(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other
    (Levenshtein).

    Raises:
        ImportError: rapidfuzz is not installed.
    """
    return int(levenshtein().distance(first, second))


def levenshtein() -> Any:
    """rapidfuzz's module of that name.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError(
            "Edit distances need rapidfuzz, which is not installed. "
            "Install it with: pip install 'minicpmv[eval]'"
        ) from error
    return Levenshtein
