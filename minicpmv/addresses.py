"""Addresses of servers that users name."""

import urllib.parse

from .errors import ArgumentError


def check_address(address: str, given: str, name: str) -> None:
    """Check that it is that of a server.

    Args:
        address: what was made of `given`, which the user wrote as `name`.

    Raises:
        ArgumentError: it is none.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        _ = parts.port
    except ValueError:
        is_good = False
    if not is_good:
        raise ArgumentError(
            f"{name} is {given!r}; expected the address of a server, as in http://10.0.0.2:8000."
        )


def without_password(url: str) -> str:
    """The address as it may be shown."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
