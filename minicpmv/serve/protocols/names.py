"""Errors about a chat completion in the words of the protocol it was asked in.

Every protocol becomes a chat completion before it is answered; an error about that names a field
which the client never sent. `Names` remembers where each came from.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ApiError


class Names:
    """Fields of the chat completion, and those of the client that they were made from.

    Args:
        moved: beginnings of fields, and what stands there instead; of several, the longest counts.
    """

    def __init__(self, moved: dict[str, str] | None = None):
        self._moved = dict(moved or {})
        self._whole: set[str] = set()

    def add(self, field: str, own: str, *, is_whole: bool = False) -> None:
        """
        Args:
            is_whole: the client sent one value for all that is below `field`.
        """
        self._moved[field] = own
        if is_whole:
            self._whole.add(field)

    def own(self, field: str) -> str:
        """The client's field."""
        parts = [
            key for key in self._moved if field == key or field.startswith((f"{key}.", f"{key}["))
        ]
        if not parts:
            return field
        key = max(parts, key=len)
        return self._moved[key] + ("" if key in self._whole else field[len(key) :])

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what is raised within about the client's own fields."""
        try:
            yield
        except ApiError as error:
            raise self.error(error) from None

    def error(self, error: ApiError) -> ApiError:
        message, param = error.message, error.param
        if param is not None:
            own = self.own(param)
            message = re.sub(
                rf"(?<![\w.]){re.escape(param)}(?!\w)", lambda _: own, message, count=1
            )
            param = own
        return ApiError(
            error.status, error.code, message, param=param, retry_after=error.retry_after
        )
