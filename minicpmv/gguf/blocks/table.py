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


def kernel(name: str, has_importance: bool) -> Callable[..., Any]:
    """The quantiser of a type.

    Returns:
        Without importance kernel(x, out), flat: whole blocks of float32 in, bytes out. With it
        kernel(x, importance, out): (rows, width), (width,), (rows, bytes of a row).
    """
    module = import_module(f".{_MODULES[name]}", __package__)
    return getattr(module, name.lower())
