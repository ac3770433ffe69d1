"""OCRBench (Liu 2023): whether what is written stands somewhere in the answer."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .contract import Score, Scored, ScoredItems, check_rules
from .plain import references
from .summaries import groups, mean_row

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

ITEMS = 1000
HEADLINE = "Final Score"
_FORMULAE = "Handwritten Mathematical Expression Recognition"
# The ten types in their five groups.
GROUPS = {
    "Text Recognition": (
        "Regular Text Recognition",
        "Irregular Text Recognition",
        "Artistic Text Recognition",
        "Handwriting Recognition",
        "Digit String Recognition",
        "Non-Semantic Text Recognition",
    ),
    "Scene Text-centric VQA": (),
    "Doc-oriented VQA": (),
    "Key Information Extraction": (),
    _FORMULAE: (),
}
# Full-width forms of ASCII, and the ideographic space.
_HALF_WIDTH = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {0x3000: " "}


@dataclass(frozen=True)
class OCRBench:
    """Points: answers that contain one of their references. Case does not count, but for formulae,
    where spaces do not; long answers score more. lmms-eval also takes full-width letters for
    ordinary ones, and knows formulae by their data set."""

    name: str = "ocrbench"

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        if rules == "lmms-eval" and "dataset" in item.fields:
            formula = item.fields["dataset"] == "HME100k"
        else:
            formula = _type_of(item) == _FORMULAE

        def plain(text: str) -> str:
            if formula:
                return text.strip().replace("\n", " ").replace(" ", "")
            if rules == "lmms-eval":
                text = text.translate(_HALF_WIDTH)
            return text.lower().strip().replace("\n", " ")

        said = plain(answer.strip() if rules == "lmms-eval" else answer)
        return Scored(float(any(plain(each) in said for each in references(item))))

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        rows = [_points(HEADLINE, scored)]
        typed = [
            (replace(item, fields={"category": _type_of(item)}), each) for item, each in scored
        ]
        by_type = groups(typed, "category")
        for group, types in GROUPS.items():
            members = [pair for name in (group, *types) for pair in by_type.get(name, ())]
            if members:
                rows.append(_points(group, members))
            rows += [_points(name, by_type[name]) for name in types if name in by_type]
        known = {*GROUPS, *GROUPS["Text Recognition"]}
        rows += [_points(name, members) for name, members in by_type.items() if name not in known]
        return [*rows, mean_row("Final Score Norm", scored)]


def of_all(row: Score) -> Score:
    """Points of a part of the benchmark as of all of it, to be compared with published ones; every
    other row as it is."""
    if row.name != HEADLINE or row.unit != "points" or row.total == ITEMS:
        return row
    scale = ITEMS / row.total
    return replace(row, value=row.value * scale, low=row.low * scale, high=row.high * scale)


def _points(name: str, scored: ScoredItems) -> Score:
    return mean_row(name, scored, scale=len(scored), unit="points")


def _type_of(item: "Item") -> str:
    return str(item.fields.get("category") or item.fields.get("question_type") or "")
