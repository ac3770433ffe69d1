"""Benchmarks on their way from the command line to the table; see `evaluate.py`."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.errors import short
from minicpmv.progress import bar, drawn

from .options import load_options, name_precision
from .startup import imports, server_packages
from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.evaluate.answering import Answerer, Model
    from minicpmv.evaluate.asking import Asking
    from minicpmv.evaluate.page import Page
    from minicpmv.evaluate.run import Items, Outcome
    from minicpmv.evaluate.scoring import Scoring

OBJECTS = "object-halbench"  # the metric that --coco is for
_OF_MODELS = (
    *("adapter", "mmproj", "device", "dtype", "device_map", "quantize", "attn_implementation"),
    *("revision", "compat", "workers"),
)
_MOST_FAILURES = 3  # that are named on stderr; answers.jsonl has all


@dataclass(frozen=True)
class Job:
    """A page that is to be asked."""

    task: str
    page: "Page"
    items: "Items"


@dataclass(frozen=True)
class Done:
    """A page that has been asked and scored."""

    job: Job
    asking: "Asking"
    scoring: "Scoring"
    folder: Path


def check(args: argparse.Namespace) -> None:
    """Refuse flags that have no effect beside others."""
    if args.base_url:
        for name in _OF_MODELS:
            if getattr(args, name, None) is not None:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} has no effect beside --base-url; remove it.")
        if args.answer_timeout is not None and not args.answer_timeout > 0:
            raise UsageError(f"--answer-timeout is {args.answer_timeout:g}; it must be above 0.")
    else:
        for name in ("api_key", "answer_timeout"):
            if getattr(args, name) is not None:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} has no effect without --base-url; remove it.")
    if args.profile is not None and args.cot is not None:
        raise UsageError("--profile says whether there is a chain of thought; remove --cot.")


def run_pages(args: argparse.Namespace, names: list[str]) -> int:
    """Ask and score, and print the table."""
    pages, means = _pages(args, names)
    if args.coco and not any(page.metric == OBJECTS for _, page in pages):
        raise UsageError("--coco has no effect without object-halbench; remove it.")
    jobs = [job_of(task, page, args) for task, page in pages]
    done: list[Done] = []
    is_judged = not all(job.page.hidden for job in jobs)
    with judge_of(args, check=is_judged) as judge, _answerer(args, jobs) as answerer:
        for job in jobs:
            done.append(_run(job, answerer, judge, args, several=len(jobs) > 1))
            tell(done[-1], args)
            if args.html:
                write_html(done[-1])
    print_done(done, means, answerer.model, args)
    return 1 if any(each.scoring.failed for each in done) else 0


def _pages(
    args: argparse.Namespace, names: list[str]
) -> tuple[list[tuple[str, "Page"]], list["Page"]]:
    """The pages to ask, each once, and those that are means of others."""
    from minicpmv.evaluate.page import load_page

    found: dict[str, tuple[str, Page]] = {}
    means = []
    for name in names:
        page = page_of(name, args)
        if page.parts:
            means.append(page)
            for part in page.parts:
                for each in part.pages:
                    found.setdefault(each, (each, load_page(each)))
        else:
            found.setdefault(page.name, (name, page))
    return list(found.values()), means


def page_of(task: str, args: argparse.Namespace) -> "Page":
    """The page of a name, or of a file of the user's own."""
    from minicpmv.evaluate.own import is_own, own_page
    from minicpmv.evaluate.page import load_page

    if not is_own(task):
        if args.metric:
            raise UsageError("--metric is for a file of your own; a benchmark has its own.")
        return load_page(task)
    if not args.metric:
        raise UsageError(f"{task} is a file of your own: say how it is scored, --metric.")
    return own_page(Path(task), args.metric)


def job_of(task: str, page: "Page", args: argparse.Namespace) -> Job:
    """A page with its data, found before a model is loaded."""
    from minicpmv.evaluate.own import is_own
    from minicpmv.evaluate.run import items_of
    from minicpmv.evaluate.scoring import metric_of

    if args.coco and page.metric == OBJECTS:
        page = replace(page, metric_options={**page.metric_options, "coco": args.coco})
    metric_of(page)  # named before its answers are there
    data = Path(task) if is_own(task) else Path(args.data) if args.data else None
    return Job(task, page, items_of(page, data, args.limit))


@contextmanager
def judge_of(args: argparse.Namespace, *, check: bool = False) -> Iterator[Any]:
    """Who judges; None: nobody.

    Args:
        check: ask a server for a word now, so that a wrong key or name is told before all work.
    """
    from minicpmv.evaluate.judges import make_judge

    if not args.judge_timeout > 0:
        raise UsageError(f"--judge-timeout is {args.judge_timeout:g}; it must be above 0.")
    judge = make_judge(
        args.judge,
        model=args.judge_model or "",
        timeout_s=args.judge_timeout,
        batch_size=args.batch_size,
    )
    try:
        ask_a_word = getattr(judge, "check", None)
        if check and ask_a_word is not None:
            ask_a_word()
        yield judge
    finally:
        close = getattr(judge, "close", None)
        if close is not None:
            close()


@contextmanager
def _answerer(args: argparse.Namespace, jobs: Sequence[Job]) -> Iterator["Answerer"]:
    """Who answers: servers, processes, or a model here."""
    if args.base_url:
        with server_packages("--base-url"):
            from minicpmv.batch.evaluation import ServerAnswerer
            from minicpmv.batch.workers import ANSWER_S

        yield ServerAnswerer(
            args.base_url,
            args.model if args.names_model else "",
            api_key=args.api_key or os.environ.get("MINICPMV_API_KEY"),
            concurrency=args.batch_size,
            answer_s=args.answer_timeout or ANSWER_S,
        )
        return
    options = load_options(args)
    workers = args.workers or _num_workers(args.model, options, jobs)
    if workers > 1:
        with imports():
            from minicpmv.evaluate.processes import ProcessAnswerer, load_in_turn

        load = partial(load_in_turn, args.model, options)
        with ProcessAnswerer(workers, load, args.model, args.batch_size) as answerer:
            yield answerer
        return
    with imports():
        from minicpmv.evaluate.answering import LocalAnswerer
        from minicpmv.loader import load as load_model

        chat = load_model(args.model, progress=sys.stderr.isatty(), **options)
    name_precision(chat)
    with chat:
        yield LocalAnswerer(chat, args.model, args.batch_size)


def _num_workers(model: str, options: Mapping[str, Any], jobs: Sequence[Job]) -> int:
    """Where nobody says how many: several for a small model on a CPU and items enough."""
    if "adapter" in options or "device_map" in options:
        return 1
    with imports():
        from minicpmv.batch.sizing import ROWS_PER_PROCESS, most_processes, with_rows_enough

    most = most_processes({"model": [model], "device": options.get("device", "auto")})
    if most == 1:
        return 1  # and no item is read for it
    items = chain.from_iterable(job.items for job in jobs)
    return with_rows_enough(most, sum(1 for _ in islice(items, most * ROWS_PER_PROCESS)))


def _run(
    job: Job, answerer: "Answerer", judge: Any, args: argparse.Namespace, *, several: bool
) -> Done:
    from minicpmv.evaluate.run import asking_of, items_of
    from minicpmv.evaluate.scoring import score_run

    page = job.page
    of_shots = replace(page, sources=page.shot_sources or page.sources, shot_sources=())
    where = job.items.found.files[0] if args.metric else Path(args.data) if args.data else None
    asking = asking_of(
        page,
        answerer.model.release,
        job.items,
        profile=args.profile,
        cot=args.cot,
        shots_from=lambda: items_of(of_shots, where),  # whatever the limit
        num_beams=args.beams,
        repetition_penalty=args.repetition_penalty,
        max_new_tokens=args.max_new_tokens,
    )
    folder = _folder(page, answerer.model, args, several)
    _ask(job, asking, answerer, folder, args)
    with bar(f"{page.name}, judge", unit="answer", smoothing=0.05) as show:
        scoring = score_run(page, job.items, folder, rules=args.rules, judge=judge, on_judged=show)
    return Done(job, asking, scoring, folder)


def _folder(page: "Page", model: "Model", args: argparse.Namespace, several: bool) -> Path:
    if args.out:
        return Path(args.out) / page.name if several else Path(args.out)
    plain = re.sub(r"[^\w.-]+", "-", Path(model.name.rstrip("/")).name).strip("-")
    return Path("runs", "evaluate", f"{page.name}-{plain}")


def _ask(
    job: Job, asking: "Asking", answerer: "Answerer", folder: Path, args: argparse.Namespace
) -> "Outcome":
    from minicpmv.evaluate.run import Progress, ask
    from minicpmv.evaluate.scoring import metric_of

    page = job.page
    reads = not page.hidden and page.judge != "required"
    total = page.count
    if args.limit is not None:
        total = args.limit if total is None else min(total, args.limit)
    data = Path(job.task) if args.metric else args.data
    about = {
        "task": job.task,
        "data": str(Path(data).absolute()) if data else None,
        "metric": args.metric,
        "limit": args.limit,
        "coco": args.coco,
        "overrides": dict(asking.overrides),
        "servers": args.base_url,
    }
    last = Progress(total)
    with drawn(page.name, total=total, unit="item", smoothing=0.05) as items:

        def show(progress: Progress) -> None:
            nonlocal last
            last = progress
            items.initial = progress.before  # the rate is that of this call
            items.set_postfix(failed=progress.failed, unparsed=progress.unparsed, refresh=False)
            items.update(progress.done - items.n)

        try:
            outcome = ask(
                asking,
                job.items,
                answerer,
                folder,
                total=total,
                metric=metric_of(page) if reads else None,
                rules=args.rules,
                data=job.items.found.files[0].name,
                about=about,
                on_progress=show,
            )
        except KeyboardInterrupt:
            items.close()
            say(f"{last.done} items are done, in {folder}; the same command goes on from there")
            raise
    if outcome.failures and not outcome.answers:
        item_id, error = next(iter(outcome.failures.items()))
        raise ValueError(
            f"{page.name}: none of {len(outcome.ids)} items was answered; the first, {item_id!r}: "
            f"{error}"
        )
    for item_id, error in [*outcome.failures.items()][:_MOST_FAILURES]:
        say(f"{page.name}: item {item_id!r} has no answer: {short(error, 300)}")
    return outcome


def tell(done: Done, args: argparse.Namespace) -> None:
    """On stderr: where the answers are, and what is not as the score seems to say."""
    from minicpmv.evaluate.report.submission import write_submission
    from minicpmv.evaluate.report.table import warnings_of

    page = done.job.page
    say(f"{page.name}: {done.scoring.answered} answers in {done.folder}")
    if page.hidden:
        path = write_submission(page, done.job.items, answers_of(done), done.folder)
        say(f"{page.name}: the references are not public; {path} can be sent in")
    warned = warnings_of(done.scoring, count=page.count, limit=args.limit, judge=page.judge)
    for line in warned:
        say(f"warning: {line}")


def answers_of(done: Done) -> dict[str, str]:
    """The texts of a run, by the id of the item."""
    from minicpmv.evaluate.journal import Run

    found = Run(done.folder).answers
    return {item_id: each.answer for item_id, each in found.items() if each.answer is not None}


def write_html(done: Done) -> None:
    """The page to look through failures."""
    from minicpmv.evaluate.journal import REPORT, Run
    from minicpmv.evaluate.report.html import Judged, write_page

    run = Run(done.folder)
    judged = {
        item_id: Judged(run.answers[item_id].answer or "", scored)
        for item_id, scored in (done.scoring.scored or {}).items()
    }
    page = done.job.page
    written = write_page(
        done.folder / REPORT,
        done.job.items,
        judged,
        title=page.title,
        facts=f"{run.about['model']}, {done.asking.profile}, rules {done.scoring.rules}",
        scores=done.scoring.rows,
    )
    say(f"{done.folder / REPORT}: {written.shown} answers, {written.failures} not wholly right")


def print_done(
    done: list[Done], means: list["Page"], model: "Model", args: argparse.Namespace
) -> None:
    from minicpmv.evaluate.report.card import (
        compare_with_card,
        mean_beside_card,
        mean_of_pages,
    )
    from minicpmv.evaluate.report.table import table
    from minicpmv.evaluate.scoring import Scoring

    scorings = {each.job.page.name: each.scoring for each in done}
    shown = [each.scoring for each in done]
    cards = {}
    for page in means:
        try:
            row = mean_of_pages(page, scorings)
        except ValueError as error:  # answers of some parts are not public
            say(f"warning: {error}")
            continue
        shown.append(Scoring(page.name, args.rules, [row], row.total, row.total))
        if args.card:
            cards[page.name] = mean_beside_card(page, model.release, row)
    if args.card:
        for each in done:
            cards[each.job.page.name] = compare_with_card(
                each.asking,
                model,
                each.scoring,
                limit=args.limit,
                data=str(each.job.items.found.files[0].name),
                is_published_data=each.job.items.found.is_published,
            )
    if args.json:
        folders = {each.job.page.name: str(each.folder) for each in done}
        found = [
            {
                **scoring.as_json(),
                "folder": folders.get(scoring.page),
                **({"card": cards[scoring.page].as_json()} if scoring.page in cards else {}),
            }
            for scoring in shown
        ]
        print(json.dumps({"model": asdict(model), "benchmarks": found}, indent=2))
        return
    if any(scoring.rows for scoring in shown):
        print(table(shown))
    for scoring in shown:
        if scoring.page in cards:
            text = cards[scoring.page].as_text(scoring.rows[0] if scoring.rows else None)
            print(f"\n{text}")


def say(line: str) -> None:
    """On stderr."""
    print(f"minicpmv: {line}", file=sys.stderr)
