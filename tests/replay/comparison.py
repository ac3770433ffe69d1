"""Holding a number, a string or an array against the recorded one, and saying where they part."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from .recording import Digest, Part


@dataclass
class Comparison:
    """What the replay of one case found.

    Fields:
        compared: how many comparisons each field got.
        failures: one line for each that did not hold.
        ties: what the recording itself calls a near tie, where ours went the other way.
    """

    compared: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)

    def holds(self, name: str, passed: bool, message: str) -> None:
        self.compared[name] += 1
        if not passed:
            self.failures.append(f"{name}: {message}")

    def equal(self, name: str, found: Any, recorded: Any) -> None:
        """Whole numbers, strings, or lists of them."""
        passed = found == recorded
        self.holds(name, passed, "" if passed else first_difference(found, recorded))

    def near_tie(self, name: str) -> None:
        """Ours went the other way where the recording says that rounding decides."""
        self.compared[name] += 1
        self.ties.append(name)

    def close(
        self, name: str, found: Any, recorded: Any, tolerance: float, relative: float = 0.0
    ) -> None:
        """|found - recorded| <= tolerance + relative * |recorded|, entry by entry."""
        found, recorded = (torch.as_tensor(x).detach().cpu().double() for x in (found, recorded))
        if found.shape != recorded.shape:
            shapes = f"shape {tuple(found.shape)}, recorded {tuple(recorded.shape)}"
            self.holds(name, False, shapes)
            return
        same = found == recorded  # infinities, where a filter took a token out
        difference = torch.where(same, 0.0, (found - recorded).abs())
        allowed = tolerance + relative * torch.where(same, 0.0, recorded.abs())
        passed = bool((difference <= allowed).all())  # NaN is not
        worst = float(difference.max()) if difference.numel() else 0.0
        self.holds(name, passed, f"{worst:.2e} off, allowed {tolerance:g} + {relative:g} of it")

    def numbers(
        self, name: str, found: torch.Tensor, recorded: Any, tolerance: float, relative: float = 0.0
    ) -> None:
        """`found` against the recorded array, a part of it, or its digest."""
        if isinstance(recorded, Digest):
            self._digest(name, found, recorded.numbers, tolerance)
        elif isinstance(recorded, Part):
            self.close(name, found[recorded.index], recorded.values, tolerance, relative)
        else:
            self.close(name, found, recorded, tolerance, relative)

    def _digest(
        self, name: str, found: torch.Tensor, digest: dict[str, Any], tolerance: float
    ) -> None:
        """An array of which only shape, sums, extremes and some entries were recorded."""
        found = found.detach().cpu()
        self.holds(name, bool(digest), "the digest is empty")
        digest = dict(digest)
        facts = {
            "shape": list(found.shape),
            "dtype": str(found.dtype).removeprefix("torch."),
        }
        for key in facts.keys() & digest.keys():
            self.equal(f"{name}/{key}", facts[key], digest.pop(key))
        if "sha256" in digest:
            self.equal(f"{name}/sha256", sha256(found), digest.pop("sha256"))
        flat = found.double().flatten()
        # Errors of single entries add up like a random walk.
        walk = tolerance * len(flat) ** 0.5
        statistics = {
            "min": (flat.min(), tolerance),
            "max": (flat.max(), tolerance),
            "mean": (flat.mean(), tolerance),
            "std": (flat.std(), tolerance),
            "sum": (flat.sum(), walk),
            "abs_sum": (flat.abs().sum(), walk),
        }
        for key in statistics.keys() & digest.keys():
            value, slack = statistics[key]
            # Recorded sums of many entries carry some 9 digits.
            self.close(f"{name}/{key}", value, digest.pop(key), slack, 1e-7)
        places, values = digest.pop("sample_flat_index", []), digest.pop("sample_value", [])
        self.close(f"{name}/samples", flat[torch.tensor(places).long()], values, tolerance, 1e-7)
        for key in digest:
            self.holds(f"{name}/{key}", False, "nothing compares it")


def sha256(array: torch.Tensor) -> str:
    """Of the bytes of an array in C order."""
    return hashlib.sha256(array.contiguous().numpy().tobytes()).hexdigest()


def first_difference(found: Any, recorded: Any) -> str:
    """Where two nested lists or strings part."""
    if isinstance(found, list | tuple | str) and type(found) is type(recorded):
        for index, (ours, theirs) in enumerate(zip(found, recorded, strict=False)):
            if ours != theirs:
                if isinstance(found, str):
                    part = slice(max(0, index - 20), index + 20)
                    return f"at {index}: {found[part]!r}, recorded {recorded[part]!r}"
                return f"[{index}] {first_difference(ours, theirs)}"
        return f"length {len(found)}, recorded {len(recorded)}"
    return f"{str(found)[:80]!r}, recorded {str(recorded)[:80]!r}"
