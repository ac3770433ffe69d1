"""Which compiled function makes which blocks. Only what is asked for is compiled."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

_MODULES = {
    "Q8_0": "plain",
    "Q4_0": "plain",
    "Q5_0": "plain",
    "Q4_1": "plain",
    "Q5_1": "plain",
    "Q4_K": "asymmetric",
    "Q5_K": "asymmetric",
    "Q2_K": "asymmetric",
    "Q6_K": "symmetric",
    "Q3_K": "symmetric",
    "IQ4_NL": "nonlinear",
    "IQ4_XS": "nonlinear",
}


_WITHOUT_IMPORTANCE = {"Q8_0"}  # it rounds every value, whatever that is worth


def kernel(name: str, has_importance: bool) -> Callable[..., Any]:
    """The quantiser of a type.

    Returns:
        kernel(x, importance, out): whole blocks of float32, flat; the importance of the columns
        of a row, or None; bytes out, flat.
    """
    if has_importance and name not in _WITHOUT_IMPORTANCE:
        return getattr(import_module(".weighted", __package__), name.lower())
    function = getattr(import_module(f".{_MODULES[name]}", __package__), name.lower())
    return lambda x, importance, out: function(x, out)
