"""Answers of a run to a table, by rules and where the page wants it by a judge."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .items import Item
from .journal import JUDGEMENTS, SCORES, Run, write_json
from .judges import Judge, Judgements
from .metrics import Metric, Score, Scored, metric
from .metrics.judged import Answered, judge_answers, unjudged, with_judge
from .page import Page

CARD_RULES = "vlmevalkit-fork"  # OpenBMB's own copy, that the cards were measured with


@dataclass(frozen=True)
class Scoring:
    """What a run comes to.

    Fields:
        rows: the headline that cards publish, then its parts; none where the page hides its
            answers.
        total: items that were to be asked; answered: those among them that have an answer.
        judge: who judged; "" nobody. judged: answers that were shown to the judge; unjudged: those
            among them without a verdict, by why.
        scored: what each answer is worth, by id.
    """

    page: str
    rules: str
    rows: list[Score]
    total: int
    answered: int
    judge: str = ""
    judged: int = 0
    unjudged: Mapping[str, int] | None = None
    scored: Mapping[str, Scored] | None = None

    @property
    def failed(self) -> int:
        return self.total - self.answered

    def as_json(self) -> dict[str, Any]:
        """JSON values; those of single answers are left out."""
        return {
            "page": self.page,
            "rules": self.rules,
            "judge": self.judge,
            "items": self.total,
            "answered": self.answered,
            "judged": self.judged,
            "unjudged": dict(self.unjudged or {}),
            "scores": [asdict(row) for row in self.rows],
        }


def metric_of(page: Page) -> Metric:
    """The metric that a page names."""
    return metric(page.metric, **page.metric_options)


def score_items(
    page: Page,
    items: Iterable[Item],
    answers: Mapping[str, str | None],
    *,
    rules: str = CARD_RULES,
    judge: Judge | None = None,
    judgements: Path | None = None,
    on_judged: Callable[[int, int], None] = lambda done, total: None,
) -> Scoring:
    """Score answers to the items of a page.

    Args:
        items: gone through once; their pictures are not kept.
        answers: by id; None, or none: the item failed, and is no part of the score.
        judge: who is asked where the rules do not decide; None: nobody.
        judgements: the file that keeps what the judge said.

    Raises:
        OSError: the judge cannot be reached.
        ValueError: an item lacks what the metric needs.
    """
    found = metric_of(page)
    pairs: list[tuple[Item, Scored]] = []
    total = 0
    for item in items:
        total += 1
        answer = answers.get(item.id)
        if answer is not None:
            light = replace(item, pictures=())
            pairs.append(
                (light, Scored(None) if page.hidden else found.score(light, answer, rules))
            )
    judged, unread = 0, dict[str, int]()
    if judge is not None and not page.hidden:
        answered = [Answered(item, answers[item.id] or "", scored) for item, scored in pairs]
        with Judgements(judgements) as kept:
            verdicts = judge_answers(with_judge(found, rules), answered, judge, kept, on_judged)
        judged, unread = verdicts.asked, unjudged(verdicts.scored)
        pairs = [
            (each.item, scored) for each, scored in zip(answered, verdicts.scored, strict=True)
        ]
    rows = found.summarise(pairs, rules) if pairs and not page.hidden else []
    return Scoring(
        page.name,
        rules,
        rows,
        total,
        len(pairs),
        judge.name if judge is not None else "",
        judged,
        unread,
        {item.id: scored for item, scored in pairs},
    )


def score_run(page: Page, items: Iterable[Item], folder: str | Path, **how: Any) -> Scoring:
    """Score the answers of a folder, and write the table into it.

    Args:
        how: as of `score_items`, but for the file of judgements.
    """
    run = Run(folder)
    answers = {item_id: each.answer for item_id, each in run.answers.items()}
    scoring = score_items(page, items, answers, judgements=run.path / JUDGEMENTS, **how)
    write_json(run.path / SCORES, scoring.as_json())
    return scoring
