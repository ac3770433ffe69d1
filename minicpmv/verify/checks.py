"""Comparisons of one golden case: each adds a line to its report, whatever happens."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Check:
    """One recorded value against ours.

    Fields:
        passed: None where nothing here computes it.
        difference: the largest absolute one, and tolerance: what an entry of about 0 may differ.
        share: of what is allowed, entry by entry; above 1 fails.
    """

    stage: str
    passed: bool | None
    difference: float | None = None
    tolerance: float | None = None
    share: float | None = None
    note: str = ""


@dataclass
class CaseReport:
    """All checks of one recorded case, in the order of the stages."""

    model: str
    case: str
    checks: list[Check] = field(default_factory=list)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    @property
    def not_covered(self) -> list[Check]:
        return [check for check in self.checks if check.passed is None]

    @property
    def num_compared(self) -> int:
        return sum(check.passed is not None for check in self.checks)

    @property
    def status(self) -> str:
        """passed, failed, or "not covered" when not one value was compared."""
        if self.failures:
            return "failed"
        return "passed" if self.num_compared else "not covered"

    @property
    def max_difference(self) -> float | None:
        """The largest absolute difference of any number."""
        return max((c.difference for c in self.checks if c.difference is not None), default=None)

    @property
    def worst(self) -> Check | None:
        """The comparison of numbers that came nearest to its tolerance, or furthest past it."""
        numeric = [check for check in self.checks if check.share is not None]
        return max(numeric, key=lambda check: check.share or 0.0, default=None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What raises in here is a failure of that stage; the other stages are still compared."""
        try:
            yield
        except Exception as error:
            note = " ".join(f"{type(error).__name__}: {error}".split())
            self.checks.append(Check(name, False, note=note[:300]))

    def uncovered(self, stage: str, note: str) -> None:
        """A recorded value that is not compared, and why."""
        self.checks.append(Check(stage, None, note=note))

    def equal(self, stage: str, found: Any, expected: Any) -> bool:
        """Whole numbers, strings, or lists of them."""
        passed = found == expected
        note = "" if passed else _first_difference(found, expected)
        self.checks.append(Check(stage, passed, note=note))
        return passed

    def close(
        self, stage: str, found: Any, expected: Any, tolerance: float, relative: float = 0.0
    ) -> bool:
        """Arrays: |found - expected| <= tolerance + relative * |expected|, entry by entry."""
        found, expected = torch.as_tensor(found).detach(), torch.as_tensor(expected)
        found, expected = found.cpu().double(), expected.cpu().double()
        if found.shape != expected.shape:
            note = f"shape {tuple(found.shape)}, recorded {tuple(expected.shape)}"
            self.checks.append(Check(stage, False, tolerance=tolerance, note=note))
            return False
        same = found == expected  # infinities, where a filter took a token out
        difference = torch.where(same, 0.0, (found - expected).abs())
        allowed = tolerance + relative * torch.where(same, 0.0, expected.abs())
        passed = bool((difference <= allowed).all())
        share = torch.where(same, 0.0, difference / allowed)
        largest, worst = (float(x.max()) if x.numel() else 0.0 for x in (difference, share))
        self.checks.append(Check(stage, passed, largest, tolerance, worst))
        return passed

    def digest(
        self, stage: str, found: torch.Tensor, digest: dict[str, Any], tolerance: float
    ) -> bool:
        """An array of which only shape, sums, extremes and some entries were recorded."""
        shape = list(found.shape)
        if "shape" in digest and shape != list(digest["shape"]):
            self.checks.append(
                Check(stage, False, note=f"shape {shape}, recorded {digest['shape']}")
            )
            return False
        flat = found.detach().cpu().double().flatten()
        # Errors of single entries add up like a random walk.
        walk = tolerance * len(flat) ** 0.5
        pairs: list[tuple[float, float, float]] = [
            (float(value), float(digest[name]), slack)
            for name, value, slack in (
                ("min", flat.min(), tolerance),
                ("max", flat.max(), tolerance),
                ("mean", flat.mean(), tolerance),
                ("std", flat.std(), tolerance),
                ("sum", flat.sum(), walk),
                ("abs_sum", flat.abs().sum(), walk),
            )
            if name in digest
        ]
        samples = zip(
            digest.get("sample_flat_index", ()), digest.get("sample_value", ()), strict=True
        )
        pairs += [(float(flat[index]), float(value), tolerance) for index, value in samples]
        if not pairs:
            self.uncovered(stage, "the digest holds no number")
            return False
        # Recorded sums of many entries carry some 9 digits.
        share = max(abs(a - b) / (slack + 1e-7 * abs(b)) for a, b, slack in pairs)
        largest = max((abs(a - b) for a, b, slack in pairs if slack == tolerance), default=None)
        self.checks.append(Check(stage, share <= 1, largest, tolerance, share))
        return share <= 1

    def unknown_fields(self, record: dict[str, Any], known: set[str]) -> None:
        """Fields that no comparison reads are named, never passed over."""
        for name in sorted(set(record) - known):
            self.uncovered(name, "no comparison reads this field")


def sha256(array: Any) -> str:
    """Of the bytes of an array in C order."""
    tensor = torch.as_tensor(array).contiguous()
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def _first_difference(found: Any, expected: Any) -> str:
    """Where two nested lists or strings part."""
    if isinstance(found, list | tuple | str) and type(found) is type(expected):
        for index, (ours, theirs) in enumerate(zip(found, expected, strict=False)):
            if ours != theirs:
                if isinstance(found, str):
                    part = slice(max(0, index - 20), index + 20)
                    return f"at {index}: {found[part]!r}, recorded {expected[part]!r}"
                return f"[{index}] {_first_difference(ours, theirs)}"
        return f"length {len(found)}, recorded {len(expected)}"
    return f"{str(found)[:80]!r}, recorded {str(expected)[:80]!r}"
