"""The results of checks as a table for people and as plain data for programs."""

from dataclasses import asdict
from typing import Any

from .compare import EXACT_STAGES, CheckResult, StageResult
from .tolerances import TOLERANCES


def checks_as_data(facts: dict[str, Any], results: list[CheckResult]) -> dict[str, Any]:
    """One JSON object: what was compared, every check with its stages, and the verdict."""
    return {
        **facts,
        "passed": all_passed(results),
        "tolerances": {name: asdict(tolerance) for name, tolerance in TOLERANCES.items()},
        "checks": [
            {
                "check": result.check,
                "what": result.what,
                "passed": result.passed,
                "skipped": result.skipped,
                "first_mismatch": result.first_mismatch,
                "stages": [asdict(stage) for stage in result.stages],
            }
            for result in results
        ],
    }


def all_passed(results: list[CheckResult]) -> bool:
    """Every check that ran passed. Where none ran, nothing is proven."""
    ran = [result for result in results if not result.skipped]
    return bool(ran) and all(result.passed for result in ran)


def checks_as_text(facts: dict[str, Any], results: list[CheckResult]) -> str:
    """The table: one line per check and stage, then a verdict."""
    lines = [
        f"{facts['model']}: reference {facts['precision']}, {facts['attn_implementation']}, on "
        f"{facts['device']}, one by one; prompts: {', '.join(facts['prompts'])}",
        "",
        f"{'check':10} {'stage':10} {'largest':>9} {'mean':>9} {'allowed':>17} {'top-1':>7}",
    ]
    for result in results:
        if result.skipped:
            lines.append(f"{result.check:10} skipped: {result.skipped}")
        equal = [stage for stage in result.stages if stage.passed and not stage.note]
        equal = [stage for stage in equal if stage.stage in ("weights", *EXACT_STAGES)]
        if equal:
            names = ", ".join(stage.stage for stage in equal)
            lines.append(f"{result.check:10} {names}: equal")
        lines += [_line(result, stage) for stage in result.stages if stage not in equal]
    stages = [stage for result in results for stage in result.stages]
    used = dict.fromkeys(stage.tolerance for stage in stages if stage.largest_relative is not None)
    lines += ["", "Differences of vision, resampler and logits are in standard deviations of"]
    lines += ["the reference's values; allowed are the largest and the mean."]
    for name in used:
        limits = TOLERANCES[name]
        allowed = f"{limits.largest:g} {limits.mean:g}"
        lines.append(f"  {name:17} {allowed:11} {limits.reason}")
    failed = [result for result in results if not result.passed]
    lines += [""]
    lines += [
        f"{result.check} ({result.what}) failed first at {result.first_mismatch}."
        for result in failed
    ]
    ran = [result for result in results if not result.skipped]
    if not ran:
        lines.append("No check ran, so nothing is proven.")
    elif not failed:
        lines.append("The check passed." if len(ran) == 1 else f"All {len(ran)} checks passed.")
    return "\n".join(lines)


def _line(result: CheckResult, stage: StageResult) -> str:
    numeric = stage.largest_relative is not None
    largest = stage.largest_relative if numeric else stage.largest
    mean = stage.mean_relative if numeric else stage.mean
    limits = TOLERANCES[stage.tolerance]
    allowed = f"{limits.largest:g} {limits.mean:g}" if largest is not None else "equal"
    top1 = "" if stage.top1 is None else f"{stage.top1:.1%}"
    count = stage.num_ties or 0
    ties = f"{count} near tie{'s' if count > 1 else ''}" if count and not stage.note else ""
    remarks = ["" if stage.passed else f"FAILED on prompt {stage.prompt!r}", stage.note or ties]
    return (
        f"{result.check:10} {stage.stage:10} {_number(largest):>9} {_number(mean):>9} "
        f"{allowed:>17} {top1:>7}  {'; '.join(filter(None, remarks))}"
    ).rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.1e}"
