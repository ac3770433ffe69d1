"""How far a score is from the one on the model's card, and what was done otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..answering import Model
from ..asking import Asking
from ..metrics import Score
from ..metrics.averages import average
from ..metrics.ocrbench import of_all
from ..page import Page, Profile, Published
from ..scoring import CARD_RULES, Scoring
from .table import number

_RETIRED = ("gpt-3.5-turbo", "gpt-4-0613", "gpt-4-1106", "chatgpt-0125")
# Fields of a profile in words, where their names alone do not say it.
_WORDS = {
    "num_beams": "beams",
    "repetition_penalty": "repetition penalty",
    "max_new_tokens": "longest answer, in tokens",
    "max_slice_nums": "slices of a picture",
    "num_frames": "frames of a video",
    "shots": "solved examples",
}


@dataclass(frozen=True)
class Deviation:
    """One number of the card beside ours.

    Fields:
        name: of the row; low, high: the 95 % interval of `difference`, ours less published.
        agrees: whether the interval holds 0.
    """

    name: str
    published: float
    ours: float
    difference: float
    low: float
    high: float

    @property
    def agrees(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Card:
    """A run beside the card of its release.

    Fields:
        deviations: the headline first; empty where the card has no score.
        differs: what was not done as published, a line each.
        notes: what the page says of the published score.
    """

    page: str
    release: str
    deviations: list[Deviation]
    differs: list[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        rows = [{**vars(each), "agrees": each.agrees} for each in self.deviations]
        return {**vars(self), "deviations": rows}

    def as_text(self, row: Score | None) -> str:
        """For people."""
        lines = []
        for each in self.deviations:
            assert row is not None
            said = "agrees" if each.agrees else "differs"
            shown = [number(value, row) for value in (each.published, each.ours)]
            change = [_signed(value) for value in (each.difference, each.low, each.high)]
            lines.append(
                f"{self.page}, {each.name}: the card of {self.release} says {shown[0]}, here "
                f"{shown[1]}; difference {change[0]} ({change[1]} to {change[2]}): {said}"
            )
        if not self.deviations:
            lines.append(f"{self.page}: the card of {self.release or 'this model'} has no score.")
        lines += [f"  otherwise than published: {line}" for line in self.differs]
        lines += [f"  note: {line}" for line in self.notes]
        return "\n".join(lines)


def compare_with_card(
    asking: Asking,
    model: Model,
    scoring: Scoring,
    *,
    limit: int | None = None,
    data: str = "",
    is_published_data: bool = True,
) -> Card:
    """A scored run beside what the card says of its release.

    Args:
        limit: how many items were asked for; None: all.
        data: the file that was read; is_published_data: whether it is the benchmark's own.
    """
    page = asking.page
    published = page.published.get(model.release)
    deviations = [] if published is None else _deviations(published, scoring)
    differs = _differs(asking, model, scoring, published)
    if limit is not None and (page.count is None or scoring.total < page.count):
        of_all = f" of {page.count}" if page.count else ""
        differs.append(f"items: the first {scoring.total}{of_all} (--limit)")
    elif page.count is not None and scoring.total != page.count:
        differs.append(f"items: {scoring.total}, published over {page.count}")
    if scoring.failed:
        differs.append(f"items without an answer: {scoring.failed}, left out of the score")
    if not is_published_data:
        differs.append(f"data: {data or 'given with --data'}, in place of the benchmark's own file")
    notes = [note for note in (page.note, published.note if published else "") if note]
    if published is not None and not published.sure:
        notes.append("the card does not state this score or its setting plainly")
    return Card(page.name, model.release, deviations, differs, notes)


def _deviations(published: Published, scoring: Scoring) -> list[Deviation]:
    if not scoring.rows:
        return []
    by_name = {row.name: row for row in scoring.rows}
    found = [_deviation(published.value, of_all(scoring.rows[0]))]
    found += [
        _deviation(value, by_name[name])
        for name, value in published.rows.items()
        if name in by_name
    ]
    return found


def _deviation(published: float, row: Score) -> Deviation:
    return Deviation(
        row.name,
        published,
        row.value,
        row.value - published,
        row.low - published,
        row.high - published,
    )


def _differs(
    asking: Asking, model: Model, scoring: Scoring, published: Published | None
) -> list[str]:
    page = asking.page
    name = _published_profile(page, model.release, published)
    used = replace(page.profiles[asking.profile], **asking.overrides)
    if name is None:
        lines = [f"profile: {asking.profile}; the page has none of {model.release or 'the model'}"]
    else:
        lines = [f"profile: {asking.profile}, published with {name}"] * (asking.profile != name)
        lines += _profile_differences(page.profiles[name], used)
        dtype = page.profiles[name].dtype
        if dtype and model.dtype and dtype != model.dtype:
            lines.append(f"dtype: {model.dtype}, published with {dtype}")
    if model.quantized:
        lines.append(f"weights: quantised ({model.quantized}), published in full")
    if model.server and not model.dtype:
        lines.append(f"weights and dtype: those of {model.server}, not known here")
    for field in model.ignores:
        value = getattr(used, field)
        if value != getattr(Profile(), field):
            lines.append(f"{_WORDS.get(field, field)}: {value} was not asked of {model.server}")
    if model.server == "vLLM" and used.repetition_penalty != 1:
        lines.append("repetition penalty: vLLM counts the words of the prompt, too")
    if scoring.rules != CARD_RULES:
        lines.append(f"rules: {scoring.rules}, published with {CARD_RULES}")
    lines += _judge_differences(page, scoring)
    if used.upsize:
        lines.append("enlarged pictures: a seed for each item; the cards' code had one for all")
    return lines


def _published_profile(page: Page, release: str, published: Published | None) -> str | None:
    if published is not None and published.profile:
        return published.profile
    return release if release in page.profiles else None


def _profile_differences(published: Profile, used: Profile) -> list[str]:
    """Fields that are set otherwise."""
    lines = []
    for field, value in vars(published).items():
        now = getattr(used, field)
        if now == value or field == "dtype":
            continue
        if isinstance(value, str) or isinstance(now, str):
            lines.append(f"{_WORDS.get(field, field)}: other words")
        else:
            lines.append(f"{_WORDS.get(field, field)}: {now}, published with {value}")
    return lines


def _judge_differences(page: Page, scoring: Scoring) -> list[str]:
    if page.judge == "none":
        return []
    card = page.judge_model or "a judge that the card does not name"
    if scoring.judge and scoring.judge == page.judge_model:
        return []
    retired = ", which has been retired" if card.startswith(_RETIRED) else ""
    return [f"judge: {scoring.judge or 'none'}, published with {card}{retired}"]


def _signed(value: float) -> str:
    return f"{value:+.1f}"


def mean_beside_card(page: Page, release: str, row: Score) -> Card:
    """The mean of pages beside what the card says of it; what differs is said at its parts."""
    published = page.published.get(release)
    deviations = [] if published is None else [_deviation(published.value, row)]
    notes = [note for note in (page.note, published.note if published else "") if note]
    return Card(page.name, release, deviations, [], notes)


def mean_of_pages(page: Page, scorings: Mapping[str, Scoring]) -> Score:
    """The score of a page that combines others, as the mean of its parts, never of fewer.

    Raises:
        ValueError: a part has no score.
    """
    scores = {name: of_all(each.rows[0]) for name, each in scorings.items() if each.rows}
    return replace(average(page.name, page.parts, scores), name="mean", unit=page.unit)
