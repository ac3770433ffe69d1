"""Answers of a server that are the same for all requests: the key, the name, the address."""

import json

from ..errors import short

# Unauthorized, Payment Required, Forbidden, Not Found, Method Not Allowed, Gone.
OF_ALL = (401, 402, 403, 404, 405, 410)
# Where requests name different models or ask different routes, these may be of one of them.
OF_ALL_MODELS = (401, 402, 403)
_MOST = 200  # characters of what a server says


class RefusedError(OSError):
    """A server answers no request of ours."""


def advice_for(status: int, *, has_key: bool) -> str:
    """What to set on the command line after one of the statuses `OF_ALL`."""
    if status in (401, 403):
        found = "The key that was given is not taken" if has_key else "No key was given"
        return f"{found}: set it with --api-key or $MINICPMV_API_KEY."
    if status == 402:
        return "Look at the account of the key, or set another with --api-key or $MINICPMV_API_KEY."
    return "Check the address (--base-url) and the name of the model (--model)."


def said_in(body: bytes) -> str:
    """What a server gives as its reason, to be put behind the status; "" where it gives none."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = text
    if isinstance(found, dict):
        found = found.get("error") or found.get("detail") or found
    if isinstance(found, dict):
        found = found.get("message") or found
    return f", {short(found, _MOST)}" if found else ""
