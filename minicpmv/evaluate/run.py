"""A page asked of a model: every item gets its answer, once, whatever happens meanwhile.

Items are read as there is room for them and again to be scored, never held together. Answers are
kept as they come; the same call goes on where the last one ended, and asks again what failed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..version import VERSION
from .answering import Answerer, Reply
from .asking import SHOTS_SEED, Asking
from .items import Item
from .journal import Answered, RunJournal
from .metrics import Metric
from .page import Page
from .scoring import CARD_RULES
from .shots import drawn_shots
from .sources import Found, find_data, read_found


@dataclass(frozen=True)
class Items:
    """The items of a page, read anew each time they are gone through."""

    page: Page
    found: Found
    limit: int | None = None

    def __iter__(self) -> Iterator[Item]:
        return read_found(self.page, self.found, limit=self.limit)


@dataclass
class Progress:
    """How far a run is.

    Fields:
        total: None where the page does not say how many items it has.
        before: of those done, what an earlier call has done.
        unparsed: answers that no rule could read.
    """

    total: int | None
    done: int = 0
    before: int = 0
    failed: int = 0
    unparsed: int = 0


@dataclass(frozen=True)
class Outcome:
    """How the asking ended.

    Fields:
        ids: of the items that were to be asked, in their order.
        answers: texts by id; failures: what was wrong with the others, by id.
    """

    ids: list[str]
    answers: dict[str, str]
    failures: dict[str, str]


def asking_of(
    page: Page,
    release: str,
    items: Iterable[Item],
    *,
    profile: str | None = None,
    cot: bool | None = None,
    shots_from: Callable[[], Iterable[Item]] | None = None,
    **overrides: Any,
) -> Asking:
    """How a page is asked of a release.

    Args:
        profile: a name among the page's profiles, in place of the release's.
        cot: with chain of thought or without; None: as the card has it.
        shots_from: gives the items that solved examples are drawn from, where some are shown; None:
            `items`.
        overrides: fields of `Profile` to be set otherwise; None leaves one as it is.

    Raises:
        ValueError: the page has no such profile, or too few solved examples.
    """
    name, found = page.profile_for(release, cot)
    if profile is not None:
        if profile not in page.profiles:
            raise ValueError(
                f"{page.name} has no profile {profile!r}; it has {', '.join(page.profiles)}."
            )
        name, found = profile, page.profiles[profile]
    given = {key: value for key, value in overrides.items() if value is not None}
    number = given.get("shots", found.shots)
    drawn: tuple[Item, ...] = ()
    if number:
        drawn = drawn_shots(items if shots_from is None else shots_from(), number, SHOTS_SEED)
    return Asking(page, name, given, drawn)


def items_of(page: Page, data: Path | None = None, limit: int | None = None) -> Items:
    """The items of a page, found once; see `sources.find_data`."""
    return Items(page, find_data(page, data), limit)


def ask(
    asking: Asking,
    items: Iterable[Item],
    answerer: Answerer,
    folder: str | Path,
    *,
    total: int | None = None,
    metric: Metric | None = None,
    rules: str = CARD_RULES,
    data: str = "",
    about: dict[str, Any] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Ask the items that have no answer in the folder yet.

    Args:
        items: gone through once.
        folder: of the run; made when it is not there.
        metric: counts answers that cannot be read while they come; nothing is scored here.
        data: name of the file with the items, which answers of one run share.
        about: JSON values that are written down beside the settings.

    Raises:
        OSError: the folder cannot be written, or nobody answers any more; what is done is kept.
        ValueError: the folder holds answers of another model, page, profile or setting.
    """
    settings = {**asking.settings(), "data": data, **answerer.model.settings()}
    known = {"model": answerer.model.name, "release": answerer.model.release}
    about = {"minicpmv": VERSION, **known, **(about or {})}
    with RunJournal(folder, settings, about) as journal:
        pass_ = _Pass(asking, journal, Progress(total), metric, rules, on_progress)
        with closing(_closable(answerer.answers(asking, pass_.waiting(items)))) as replies:
            for item_id, reply in replies:
                pass_.keep(item_id, reply)
        journal.put_in_order(pass_.ids)
        return pass_.outcome()


class _Pass:
    """One pass over the items."""

    def __init__(
        self,
        asking: Asking,
        journal: RunJournal,
        progress: Progress,
        metric: Metric | None,
        rules: str,
        on_progress: Callable[[Progress], None],
    ):
        self.ids: list[str] = []
        self._asking = asking
        self._journal = journal
        self._progress = progress
        self._metric = metric
        self._rules = rules
        self._on_progress = on_progress
        self._asked: dict[str, tuple[Item, str]] = {}  # with what stands for the prompt

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that have no answer."""
        for item in items:
            self.ids.append(item.id)
            try:
                digest = self._asking.digest(item)
            except (ValueError, OSError) as error:
                self._write(item, "", Reply(None, " ".join(str(error).split())))
                continue
            if self._journal.known(item.id, digest):
                self._progress.before += 1
                self._count(item, self._journal.answers[item.id].answer)
            else:
                self._asked[item.id] = replace(item, pictures=()), digest
                yield item

    def keep(self, item_id: str, reply: Reply) -> None:
        item, digest = self._asked.pop(item_id)
        self._write(item, digest, reply)

    def _write(self, item: Item, digest: str, reply: Reply) -> None:
        answered = Answered(
            item.id, digest, reply.text, reply.error, reply.tokens, reply.seconds, reply.finish
        )
        self._journal.add(answered)
        self._count(item, reply.text)

    def _count(self, item: Item, answer: str | None) -> None:
        self._progress.done += 1
        self._progress.failed += answer is None
        if answer is not None and self._metric is not None:
            scored = self._metric.score(item, answer, self._rules)
            self._progress.unparsed += scored.value is None
        self._on_progress(self._progress)

    def outcome(self) -> Outcome:
        answers, failures = {}, {}
        for item_id in self.ids:
            found = self._journal.answers[item_id]
            if found.answer is None:
                failures[item_id] = found.error
            else:
                answers[item_id] = found.answer
        return Outcome(self.ids, answers, failures)


def _closable(replies: Iterable[tuple[str, Reply]]) -> Any:
    """A generator that ends the answers that nobody reads any more."""
    yield from replies
