"""The tensors that a model has and those that files hold: how they differ."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .headers import Shape


def skeleton(model_class: Any, config: Any) -> nn.Module:
    """The model without memory for its parameters: names and shapes."""
    with torch.device("meta"):
        return model_class(config)


def differences(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], optional: Iterable[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Names of tensors that are missing, that are too many, and those of another shape.

    The last as text, with both shapes. Of `optional` names any may be there or not.
    """
    optional = set(optional)
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected and name not in optional]
    mismatched = [
        other_shape(name, found[name], shape)
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    return missing, unexpected, mismatched


def other_shape(name: str, found: Iterable[int], expected: Iterable[int]) -> str:
    """ "lm_head.weight (3, 8), expected (4, 8)"."""
    return f"{name} {tuple(found)}, expected {tuple(expected)}"


def describe(missing: list[str], unexpected: list[str], mismatched: list[str]) -> list[str]:
    """One phrase per kind that is there: "2 missing: a, b"."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    return [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names]


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names in order, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def check_tensors(
    path: Any,
    missing: list[str],
    unexpected: list[str],
    mismatched: list[str],
    hints: Sequence[str] = (),
) -> None:
    """Raise one line that names the tensors of `path` that are not those of its config.

    Args:
        hints: phrases about the fields of the config that may be wrong.

    Raises:
        ValueError: there are any.
    """
    problems = describe(missing, unexpected, mismatched)
    if problems:
        reason = f" See config.json: {', '.join(hints)}." if hints else ""
        raise ValueError(
            f"The tensors of {str(path)!r} are not those of its config: {'; '.join(problems)}."
            f"{reason} Download the checkpoint again, or check that config.json belongs to it."
        )
