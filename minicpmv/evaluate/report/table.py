"""Scores as a table for people, and what they must know beside it."""

from collections.abc import Sequence

from ..metrics import Score
from ..scoring import Scoring

HEAD = "| benchmark | measure | score | 95 % interval | n | unparsed |\n|---|---|---|---|---|---|"


def table(scorings: Sequence[Scoring]) -> str:
    """A Markdown table, a row for each score; the first of a page is what cards publish."""
    lines = [HEAD]
    for scoring in scorings:
        for row in scoring.rows:
            less = " (less is better)" if row.less_is_better else ""
            lines.append(
                f"| {scoring.page} | {row.name}{less} | {number(row.value, row)} | "
                f"{number(row.low, row)} to {number(row.high, row)} | {row.total} | "
                f"{row.unparsed} |"
            )
    return "\n".join(lines)


def number(value: float, row: Score) -> str:
    """A value in the unit of its row: per cent and points with one digit, shares of 5 with two."""
    if row.unit == "%":
        return f"{value:.1f} %"
    digits = 2 if abs(max(row.value, row.high)) <= 10 else 1
    return f"{value:.{digits}f}".removesuffix(".0")


def warnings_of(scoring: Scoring, *, count: int | None, limit: int | None, judge: str) -> list[str]:
    """What is not as the score seems to say, a line each; empty where all is well.

    Args:
        count: items of the page, where known; limit: how many were asked for.
        judge: what the page says of judges: "none", "optional" or "required".
    """
    lines = []
    if scoring.failed:
        lines.append(
            f"{scoring.page}: {scoring.failed} of {scoring.total} items have no answer; the score "
            f"is over {scoring.answered}. The same command asks them again."
        )
    if limit is None and count is not None and scoring.total != count:
        lines.append(f"{scoring.page}: the data has {scoring.total} items, the benchmark {count}.")
    if limit is not None and (count is None or scoring.total < count):
        of_all = f" of {count}" if count is not None else ""
        lines.append(
            f"{scoring.page}: the score is over the first {scoring.total}{of_all} items (--limit)."
        )
    unparsed = scoring.rows[0].unparsed if scoring.rows else 0
    if unparsed and judge != "none" and not scoring.judge:
        needs = "is made to be scored by" if judge == "required" else "was published with"
        lines.append(
            f"{scoring.page}: rules could not read {unparsed} of {scoring.rows[0].total} answers, "
            f"which count as wrong; the benchmark {needs} a judge (--judge)."
        )
    if scoring.unjudged:
        why = ", ".join(f"{number} {name}" for name, number in sorted(scoring.unjudged.items()))
        lines.append(
            f"{scoring.page}: of {scoring.judged} answers shown to the judge, "
            f"{sum(scoring.unjudged.values())} have no verdict ({why})."
        )
    return lines
