"""The results of roads and replays as a table for people and as plain data for programs."""

from dataclasses import asdict
from typing import Any

from .checks import CaseReport
from .roads import EXACT_STAGES, TOLERANCES, RoadResult, StageResult


def roads_as_data(facts: dict[str, Any], results: list[RoadResult]) -> dict[str, Any]:
    """One JSON object: what was compared, every road with its stages, and the verdict."""
    return {
        **facts,
        "passed": all_passed(results),
        "tolerances": {name: asdict(tolerance) for name, tolerance in TOLERANCES.items()},
        "roads": [
            {
                "road": result.road,
                "what": result.what,
                "passed": result.passed,
                "skipped": result.skipped,
                "first_drift": result.first_drift,
                "stages": [asdict(stage) for stage in result.stages],
            }
            for result in results
        ],
    }


def all_passed(results: list[RoadResult]) -> bool:
    """Every road that was taken passed. Where none was, nothing is proven."""
    taken = [result for result in results if not result.skipped]
    return bool(taken) and all(result.passed for result in taken)


def roads_as_text(facts: dict[str, Any], results: list[RoadResult]) -> str:
    """The table: one line per road and stage, then a verdict."""
    lines = [
        f"{facts['model']}: reference {facts['precision']}, {facts['attn_implementation']}, on "
        f"{facts['device']}, one by one; probes: {', '.join(facts['probes'])}",
        "",
        f"{'road':10} {'stage':10} {'largest':>9} {'mean':>9} {'allowed':>17} {'top-1':>7}",
    ]
    for result in results:
        if result.skipped:
            lines.append(f"{result.road:10} skipped: {result.skipped}")
        equal = [stage for stage in result.stages if stage.passed and not stage.note]
        equal = [stage for stage in equal if stage.stage in ("weights", *EXACT_STAGES)]
        if equal:
            names = ", ".join(stage.stage for stage in equal)
            lines.append(f"{result.road:10} {names}: equal")
        lines += [_line(result, stage) for stage in result.stages if stage not in equal]
    stages = [stage for result in results for stage in result.stages]
    used = dict.fromkeys(stage.tolerance for stage in stages if stage.largest_relative is not None)
    lines += ["", "Differences of vision, resampler and logits are in spreads (standard"]
    lines += ["deviations) of the reference's values; allowed are the largest and the mean."]
    for name in used:
        limits = TOLERANCES[name]
        allowed = f"{limits.largest:g} {limits.mean:g}"
        lines.append(f"  {name:17} {allowed:11} {limits.reason}")
    failed = [result for result in results if not result.passed]
    lines += [""]
    lines += [
        f"{result.road} ({result.what}) drifts first at {result.first_drift}." for result in failed
    ]
    taken = [result for result in results if not result.skipped]
    if not taken:
        lines.append("No road was taken, so nothing is proven.")
    elif not failed:
        roads = "The road leads" if len(taken) == 1 else f"All {len(taken)} roads lead"
        lines.append(f"{roads} to one number.")
    return "\n".join(lines)


def _line(result: RoadResult, stage: StageResult) -> str:
    numeric = stage.largest_relative is not None
    largest = stage.largest_relative if numeric else stage.largest
    mean = stage.mean_relative if numeric else stage.mean
    limits = TOLERANCES[stage.tolerance]
    allowed = f"{limits.largest:g} {limits.mean:g}" if largest is not None else "equal"
    top1 = "" if stage.top1 is None else f"{stage.top1:.1%}"
    count = stage.num_ties or 0
    ties = f"{count} near tie{'s' if count > 1 else ''}" if count and not stage.note else ""
    remarks = ["" if stage.passed else f"DRIFTS at {stage.probe!r}", stage.note or ties]
    return (
        f"{result.road:10} {stage.stage:10} {_number(largest):>9} {_number(mean):>9} "
        f"{allowed:>17} {top1:>7}  {'; '.join(filter(None, remarks))}"
    ).rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.1e}"


def case_as_data(report: CaseReport) -> dict[str, Any]:
    """One replayed case with all its comparisons."""
    return {
        "model": report.model,
        "case": report.case,
        "status": report.status,
        "max_difference": report.max_difference,
        "worst_share": None if report.worst is None else report.worst.share,
        "first_failure": report.failures[0].stage if report.failures else None,
        "checks": [asdict(check) for check in report.checks],
    }


def case_as_line(report: CaseReport) -> str:
    """One replayed case in one line; failures and what is not covered below it."""
    worst = report.worst
    nearest = "" if worst is None else f"{worst.share:.0%} of what is allowed, {worst.stage}"
    lines = [
        f"{report.status:11} {report.model:22} {report.case:30} {report.num_compared:4} compared  "
        f"{nearest}".rstrip()
    ]
    for check in report.failures:
        facts = "" if check.difference is None else f"{check.difference:.1e}"
        if check.tolerance is not None and facts:
            facts += f", allowed {check.tolerance:g}"
        lines.append(f"            {check.stage}: {'; '.join(filter(None, (facts, check.note)))}")
    lines += [f"            not covered: {c.stage}: {c.note}" for c in report.not_covered]
    return "\n".join(lines)


def summary_as_text(counts: dict[str, Any], reports: list[CaseReport]) -> str:
    """The last lines of a replay."""
    lines = [
        "",
        f"{counts['cases']} cases: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['not_covered']} not covered",
        f"{counts['comparisons']} comparisons, {counts['comparisons_failed']} failed, "
        f"{counts['values_not_covered']} recorded values not covered",
    ]
    checks = [(report.worst, report) for report in reports]
    numeric = [(check, report) for check, report in checks if check is not None]
    if numeric:
        worst, report = max(numeric, key=lambda pair: pair[0].share or 0.0)
        lines.append(
            f"nearest to its tolerance: {worst.difference:.1e}, {worst.share:.0%} of what is "
            f"allowed ({report.model} {report.case}, {worst.stage})"
        )
    return "\n".join(lines)
