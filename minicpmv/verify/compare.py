"""The results of one configuration against the reference's, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .prompts import Prompt
from .tolerances import TOLERANCES, Tolerance
from .trace import STAGES, Trace

Pair = tuple[str, Trace, Trace]  # name of the prompt, reference, found
EXACT_STAGES = ("pixels", "slices", "ids")  # made before any weight is read


@dataclass
class StageResult:
    """One stage of one check, over all prompts that have it.

    Fields:
        tolerance: its row in the table.
        largest, mean: of the absolute differences, as they are; relative ones are in standard
            deviations of the reference.
        top1: share of logit rows with the same likeliest token; ties counts the others whose two
            candidates lie closer than the tolerated difference.
        prompt: where it is worst.
    """

    stage: str
    passed: bool
    tolerance: str = "exact"
    largest: float | None = None
    mean: float | None = None
    largest_relative: float | None = None
    mean_relative: float | None = None
    top1: float | None = None
    num_ties: int | None = None
    prompt: str = ""
    note: str = ""


@dataclass
class CheckResult:
    """One check: its stages, or why it was skipped."""

    check: str
    what: str
    stages: list[StageResult] = field(default_factory=list)
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return all(stage.passed for stage in self.stages)

    @property
    def first_mismatch(self) -> str | None:
        """The first stage past its tolerance."""
        return next((stage.stage for stage in self.stages if not stage.passed), None)


def compare(
    check: str,
    what: str,
    tolerance: str,
    prompts: Sequence[Prompt],
    reference: Sequence[Trace],
    found: Sequence[Trace],
    *,
    of_vision: str | None = None,
) -> CheckResult:
    """Compare the traces of a check with the reference's, stage by stage.

    Args:
        tolerance: row of the table for logits and text.
        of_vision: for vision and resampler, where it is another one.
    """
    result = CheckResult(check, what)
    pairs = list(zip([prompt.name for prompt in prompts], reference, found, strict=True))
    for stage in STAGES[:-1]:
        # A check that starts later, as the streamed one does, has no earlier stages.
        having = [pair for pair in pairs if stage in pair[2].stages]
        lacking = [pair for pair in pairs if stage in pair[1].stages and pair not in having]
        row = of_vision if of_vision and stage in ("vision", "resampler") else tolerance
        if check == "against" and lacking:
            note = "the other model has no such stage"
            result.stages.append(StageResult(stage, False, prompt=lacking[0][0], note=note))
        elif having and stage in EXACT_STAGES:
            result.stages.append(_compare_exactly(stage, having))
        elif having:
            result.stages.append(_compare_numbers(stage, having, row))
    result.stages.append(_compare_texts(pairs, tolerance, forgive_ties=result.passed))
    return result


def _compare_exactly(stage: str, pairs: Sequence[Pair]) -> StageResult:
    """Pixels, slices or ids, which no arithmetic of the model touches."""
    result = StageResult(stage, True, largest=0.0, mean=0.0)
    for name, reference, found in pairs:
        ours, theirs = reference.stages.get(stage, []), found.stages[stage]
        if isinstance(theirs, list):
            if ours != theirs:
                return StageResult(stage, False, prompt=name, note=_first_difference(ours, theirs))
            continue
        if ours.shape != theirs.shape:
            note = f"{len(ours)} and {len(theirs)} values"
            return StageResult(stage, False, prompt=name, note=note)
        difference = (ours - theirs).abs()
        if float(difference.max()) > (result.largest or 0.0):
            result.passed, result.prompt = False, name
            result.largest, result.mean = float(difference.max()), float(difference.mean())
    return result


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many entries two sequences begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    differing = (index for index, (one, other) in pairs if one != other)
    return next(differing, min(len(first), len(second)))


def _first_difference(ours: list[Any], theirs: list[Any]) -> str:
    first = common_length(ours, theirs)
    entries = [str(v[first]) if first < len(v) else "the end" for v in (ours, theirs)]
    return f"{len(ours)} and {len(theirs)} entries, first different at {first}: " + " and ".join(
        entries
    )


def _compare_numbers(stage: str, pairs: Sequence[Pair], tolerance: str) -> StageResult:
    """Vision, resampler or logits: the worst of every number over all prompts."""
    limits = TOLERANCES[tolerance]
    result = StageResult(stage, True, tolerance, 0.0, 0.0, 0.0, 0.0)
    num_rows = num_same = num_ties = 0
    for name, reference, found in pairs:
        ours, theirs = reference.stages[stage], found.stages[stage]
        if stage == "logits":
            ours, theirs = _comparable_rows(reference, found)
        if ours.shape != theirs.shape:
            note = f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
            return StageResult(stage, False, tolerance, prompt=name, note=note)
        difference = (ours - theirs).abs()
        if not bool(difference.isfinite().all()):
            return StageResult(stage, False, tolerance, prompt=name, note="values not finite")
        std = max(float(ours.std()), 1e-12)
        largest, mean = float(difference.max()), float(difference.mean())
        result.largest = max(result.largest or 0.0, largest)
        result.mean = max(result.mean or 0.0, mean)
        result.mean_relative = max(result.mean_relative or 0.0, mean / std)
        if largest / std >= (result.largest_relative or 0.0):
            result.largest_relative, result.prompt = largest / std, name
        if stage == "logits":
            differs = ours.argmax(dim=-1) != theirs.argmax(dim=-1)
            num_rows, num_same = num_rows + len(ours), num_same + int((~differs).sum())
            num_ties += int((differs & (_margins(ours) <= _closeness(ours, limits))).sum())
    if stage == "logits":
        result.top1, result.num_ties = num_same / num_rows, num_ties
    result.passed = (result.largest_relative or 0.0) <= limits.largest and (
        result.mean_relative or 0.0
    ) <= limits.mean
    return result


def _comparable_rows(reference: Trace, found: Trace) -> tuple[torch.Tensor, torch.Tensor]:
    """The logit rows that both computed from the same text: up to where the answers part."""
    prompt = min(reference.num_prompt_rows, found.num_prompt_rows)
    rows = prompt + common_length(reference.new_ids, found.new_ids)
    ours = reference.stages["logits"][reference.num_prompt_rows - prompt :][:rows]
    theirs = found.stages["logits"][found.num_prompt_rows - prompt :][:rows]
    rows = min(len(ours), len(theirs))
    return ours[:rows], theirs[:rows]


def _margins(logits: torch.Tensor) -> torch.Tensor:
    """How far the likeliest token is ahead of the next, per row."""
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return first - second


def _closeness(logits: torch.Tensor, limits: Tolerance) -> float:
    """Two candidates that are no further apart may change places within the tolerance."""
    return 2 * limits.largest * float(logits.std())


def _compare_texts(
    pairs: Sequence[Pair], tolerance: str, *, forgive_ties: bool = True
) -> StageResult:
    """Greedy answers; where they part at a near tie, that is said and forgiven.

    After a mismatch no tie explains why they differ: `forgive_ties` is False.
    """
    limits = TOLERANCES[tolerance]
    result, notes = StageResult("text", True, tolerance, num_ties=0), []
    for name, reference, found in pairs:
        if reference.text == found.text:
            continue
        result.prompt = name
        if not found.new_ids:  # a stream has only its text
            return StageResult(
                "text",
                False,
                tolerance,
                prompt=name,
                note=f"{reference.text!r} became {found.text!r}",
            )
        place = common_length(reference.new_ids, found.new_ids)
        if place == min(len(reference.new_ids), len(found.new_ids)):
            note = f"the answer has {len(reference.new_ids)} and {len(found.new_ids)} tokens"
            return StageResult("text", False, tolerance, prompt=name, note=note)
        logits = reference.stages["logits"]
        row = logits[reference.num_prompt_rows - 1 + place]
        margin = float(_margins(row[None]))
        is_tie = forgive_ties and margin <= _closeness(logits, limits)
        notes.append(
            f"token {place + 1} of {len(reference.new_ids)} differs, margin {margin:.2g}"
            + (": a tie" if is_tie else "")
        )
        if not is_tie:
            return StageResult("text", False, tolerance, prompt=name, note=notes[-1])
        result.num_ties = (result.num_ties or 0) + 1
    result.note = notes[0] if notes else ""
    return result
