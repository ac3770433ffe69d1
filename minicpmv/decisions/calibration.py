"""A calibration as a file: fitted values, what they hold for, and what they were worth."""

import hashlib
import json
import math
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..errors import ArgumentError, short
from .decision import Decision
from .fit import Fit, calibrated
from .question import Question

VERSION = 1
_SAMPLE = 64  # numbers of each tensor that the fingerprint looks at
# Of temperatures and biases, far beyond those that are fitted: with others, probabilities are none.
_LEAST, _MOST = 1e-4, 1e9


@dataclass(frozen=True)
class Quality:
    """How good probabilities are on examples that were not used for the fit."""

    ece: float
    nll: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Turns the probabilities of decisions into calibrated ones.

    Fields:
        model: as it was named; fingerprint: of its weights.
        temperature: the log-probabilities are divided by it.
        bias: of each choice, added to that; None: none, and any choices are taken.
        list_choices, average_orders: how the examples were asked; others are refused.
        num_fitted, num_held_out: examples.
        before, after: on the examples that were held out.
    """

    model: str
    fingerprint: str
    temperature: float
    bias: Mapping[str, float] | None
    list_choices: bool
    average_orders: str | None
    num_fitted: int
    num_held_out: int
    before: Quality
    after: Quality
    version: int = VERSION

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The labels that it is for; None: any."""
        return None if self.bias is None else tuple(self.bias)

    @classmethod
    def of(cls, source: "Calibration | str | Path") -> "Calibration":
        """The calibration itself, or that of a file."""
        return source if isinstance(source, cls) else cls.load(str(source))

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read a file of `save`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no calibration.
        """
        text = Path(path).read_bytes()
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}. Make it with calibrate.") from None
        return cls._from(data, str(path))

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def check(self, model: Any, questions: Iterable[Question]) -> None:
        """Check that it is for this model and for these questions.

        Raises:
            ArgumentError: it is not.
        """
        self.check_model(model)
        for question in questions:
            reason = self.why_not(question)
            if reason is not None:
                raise ArgumentError(f"This `calibration` {reason}. Make one for this question.")

    def check_model(self, model: Any) -> None:
        """Check that it was made with these weights.

        Raises:
            ArgumentError: it was made with others.
        """
        found = fingerprint_of(model)
        if found != self.fingerprint:
            raise ArgumentError(
                f"The `calibration` was made for {self.model} with weights {self.fingerprint}; "
                f"this model has {found}. Make one for this model with minicpmv calibrate."
            )

    def why_not(self, question: Question) -> str | None:
        """The end of a sentence that says why it is not for a question; None where it is."""
        if self.bias is not None and set(self.bias) != set(question.labels):
            return f"is for the choices {_list(self.bias)}, not for {_list(question.labels)}"
        if self.list_choices != question.list_choices:
            listed = "listed" if self.list_choices else "not listed"
            return f"is for choices that are {listed} in the question (list_choices)"
        if self.average_orders != question.average_orders:
            return f"is for average_orders={self.average_orders!r}"
        return None

    def apply(self, decision: Decision) -> Decision:
        """The decision with calibrated probabilities."""
        labels = list(decision.logprobs)
        bias = () if self.bias is None else tuple(self.bias[label] for label in labels)
        logprobs = [decision.logprobs[label] for label in labels]
        found = calibrated(logprobs, Fit(self.temperature, bias))
        return decision.with_probabilities(dict(zip(labels, found, strict=True)))

    @classmethod
    def _from(cls, data: Any, path: str) -> "Calibration":
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict):
            raise ValueError(f"{path} is no calibration but {short(data)}. Make it with calibrate.")
        lacking, others = sorted(names - set(data)), sorted(set(data) - names)
        if lacking or others:
            reason = f"lacks {_list(lacking)}" if lacking else f"has {_list(others)} besides"
            raise ValueError(f"{path} is no calibration: it {reason}. Make it with calibrate.")
        if data["version"] != VERSION:
            raise ValueError(
                f"{path} has version {short(data['version'])}; this program reads {VERSION}. "
                "Make it again with calibrate."
            )
        for name, (is_good, wanted) in _FIELDS.items():
            if not is_good(data[name]):
                raise ValueError(f"{path} has {name} {short(data[name])}; it must be {wanted}.")
        measured = {name: Quality(**data[name]) for name in ("before", "after")}
        return cls(**{**data, **measured})


def _is_number(value: Any, most: float = math.inf) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= min(most, sys.float_info.max)


def _is_bias(value: Any) -> bool:
    if value is None:
        return True
    are_numbers = isinstance(value, dict) and all(_is_number(n, _MOST) for n in value.values())
    return are_numbers and len(value) > 1


def _is_quality(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == set(_MEASURES)
        and all(map(_is_number, value.values()))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value, 2**53) and value >= 0


_MEASURES = tuple(field.name for field in fields(Quality))
_QUALITY = f"the numbers {', '.join(_MEASURES)}"
# What a field of a file may be, and that in words.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (_is_text, "text"),
    "fingerprint": (_is_text, "text"),
    "temperature": (lambda t: _is_number(t, _MOST) and t >= _LEAST, f"from {_LEAST} to {_MOST:g}"),
    "bias": (_is_bias, f"null, or a number from -{_MOST:g} to {_MOST:g} per choice"),
    "list_choices": (lambda value: isinstance(value, bool), "true or false"),
    "average_orders": (lambda value: value in (None, "cyclic", "all"), "null, cyclic or all"),
    "num_fitted": (_is_count, "a number of examples"),
    "num_held_out": (_is_count, "a number of examples"),
    "before": (_is_quality, _QUALITY),
    "after": (_is_quality, _QUALITY),
}


def _list(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:8]) + (" ..." if len(shown) > 8 else "")


def fingerprint_of(model: Any) -> str:
    """A word for the weights of a model, from some numbers of each tensor.

    It is the same in float32 and bfloat16 where the file has bfloat16, and another for quantised
    weights, whose probabilities are others.
    """
    known = _FINGERPRINTS.get(model)
    versions = sum(p._version for p in model.parameters() if not p.is_inference())
    if known is None or known[0] != versions:
        known = _FINGERPRINTS[model] = versions, _fingerprint(model.state_dict())
    return known[1]


_FINGERPRINTS: "weakref.WeakKeyDictionary[Any, tuple[int, str]]" = weakref.WeakKeyDictionary()


def _fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(state.items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(len(flat) // _SAMPLE, 1)][:_SAMPLE].cpu()
        if some.is_floating_point():
            some = some.to(torch.bfloat16).view(torch.int16)
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(some.contiguous().numpy().tobytes())
    return found.hexdigest()
