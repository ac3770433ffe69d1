"""Benchmarks and runs that are there already: shown, scored again, compared; see `evaluate.py`."""

import argparse
import json
import string
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item
    from minicpmv.evaluate.journal import Run
    from minicpmv.evaluate.page import Page, Source

    from .evaluation import Job


def list_pages(args: argparse.Namespace) -> int:
    """All benchmarks, a line each."""
    from minicpmv.evaluate.page import load_page, page_names
    from minicpmv.evaluate.scenes.tasks import TASKS

    pages = [load_page(name) for name in page_names()]
    if args.json:
        known = ("name", "title", "what", "count", "metric", "judge", "aliases")
        print(json.dumps([{name: getattr(page, name) for name in known} for page in pages]))
        return 0
    lines = [(page.name, page.title, page.what) for page in pages]
    lines += [(f"scenes/{task}", "drawn pictures", "see --tasks") for task in TASKS]
    width = max(len(name) for name, _, _ in lines)
    for name, title, what in lines:
        print(f"{name:{width}}  {title}{f': {what}' if what else ''}")
    return 0


def show_page(args: argparse.Namespace) -> int:
    """One benchmark: its data, its metric, the cards' scores, and how each release is asked."""
    from minicpmv.evaluate.answering import release_of
    from minicpmv.evaluate.asking import Asking
    from minicpmv.evaluate.page import load_page
    from minicpmv.evaluate.prompts import as_text

    page = load_page(args.show)
    print(f"{page.name}: {page.title}, version {page.version}")
    for name in ("what", "note"):
        if getattr(page, name):
            print(getattr(page, name))
    for part in page.parts:
        print(f"mean of {' and '.join(part.pages)}, divided by {part.divide:g}")
    for source in page.sources:
        print(f"data: {_place(source)}")
    if page.metric:
        judge = f"; judge {page.judge}, {page.judge_model}" if page.judge != "none" else ""
        print(f"metric: {page.metric} ({page.unit}){judge}")
    for release, published in page.published.items():
        profile = f" with {published.profile}" if published.profile else ""
        print(f"published for {release}: {published.value:g}{profile}")
    if page.parts:
        return 0
    names = list(page.profiles)
    if args.profile:
        if args.profile not in names:
            raise UsageError(f"{page.name} has no profile {args.profile!r}; it has {names}.")
        names = [args.profile]
    elif args.names_model:
        names = [page.profile_for(release_of(args.model), args.cot)[0]]
    item, is_real = _example(page, args)
    print(f"\n{'The first item' if is_real else 'An item'} is asked like this:")
    for name in names:
        asking = Asking(page, name)
        words = asking.profile_of(item)
        asked = Asking(page, name, {"shots": 0}).conversation(item)
        print(f"\n--- {name}: beams {words.num_beams}, repetition penalty "
              f"{words.repetition_penalty:g}, at most {words.max_new_tokens} tokens"
              f"{', small pictures enlarged' if words.upsize else ''}"
              f"{f', {words.shots} solved examples first' if words.shots else ''}")  # fmt: skip
        print(as_text(asked))
    return 0


def _place(source: "Source") -> str:
    """Where the data is, for people."""
    if source.repo:
        parts = [f"{source.repo} on the hub"]
        parts += [f"config {source.config}"] * bool(source.config)
        where = ", ".join(parts)
    else:
        where = source.url or source.file
    licence = f"; {source.licence}" if source.licence else ""
    return f"{where} ({source.kind}){licence}"


def _example(page: "Page", args: argparse.Namespace) -> tuple["Item", bool]:
    """The first item of the data where it is here, else one that is made up."""
    from minicpmv.evaluate.items import Item
    from minicpmv.evaluate.sources import read_found
    from minicpmv.evaluate.sources.files import here, of_user

    found = of_user(page, Path(args.data)) if args.data else here(page)
    if found is not None:
        return next(read_found(page, found, limit=1)), True
    options = {"A": "(first option)", "B": "(second option)"} if page.kind == "mcq" else {}
    fields: dict[str, Any] = {"hint": ""}
    names = [name for profile in page.profiles.values() for name in _places(profile.prompt)]
    fields |= {name: f"({name})" for name in names}
    return Item("0", "(question)", (b"",), ("(answer)",), options, fields), False


def _places(template: str) -> list[str]:
    """Fields that a prompt has places for."""
    known = ("pictures", "question", "options", "hint", "subtitles")
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name)
    return [name for name in names if name not in known]


def rescore(args: argparse.Namespace) -> int:
    """Score the answers of a folder by other rules, another judge or another metric."""
    from minicpmv.evaluate.answering import Model
    from minicpmv.evaluate.asking import Asking
    from minicpmv.evaluate.journal import Run
    from minicpmv.evaluate.scoring import score_run

    from .evaluation import Done, judge_of, print_done, tell, write_html

    run = Run(args.rescore)
    settings, about = run.settings, run.about
    given, job = _job_of_run(run, args)
    profile = str(settings["profile"])
    if profile not in job.page.profiles:
        raise ValueError(f"{job.page.name} has no profile {profile!r} any more. Ask anew.")
    with judge_of(args) as judge:
        scoring = score_run(job.page, job.items, run.path, rules=args.rules, judge=judge)
    known = {name: str(settings.get(name, "")) for name in ("weights", "dtype", "quantized")}
    name, release = str(about.get("model", "")), str(about.get("release", ""))
    model = Model(name, release, **known, server=str(settings.get("answered by", "")))  # type: ignore[arg-type]
    done = Done(job, Asking(job.page, profile, about.get("overrides", {})), scoring, run.path)
    tell(done, given)
    if args.html:
        write_html(done)
    print_done([done], [], model, given)
    return 1 if scoring.failed else 0


def compare(args: argparse.Namespace) -> int:
    """Two runs of one benchmark, item by item."""
    from minicpmv.evaluate.journal import JUDGEMENTS, Run
    from minicpmv.evaluate.report.compare import Side, comparison_table
    from minicpmv.evaluate.report.compare import compare as compare_sides
    from minicpmv.evaluate.scoring import score_items

    from .evaluation import judge_of

    sides, metrics, less = [], {}, False
    for path in args.compare:
        run = Run(path)
        _, job = _job_of_run(run, args)
        if job.page.hidden:
            raise ValueError(f"{job.page.name} hides its references; its runs cannot be compared.")
        metrics[path] = job.page.metric
        if len(set(metrics.values())) > 1:
            one, other = (f"{path} by {metric}" for path, metric in metrics.items())
            raise ValueError(
                f"{one} and {other}: these scores cannot be compared; name one metric, --metric."
            )
        answers = {item_id: each.answer for item_id, each in run.answers.items()}
        with judge_of(args) as judge:
            scoring = score_items(
                job.page,
                job.items,
                answers,
                rules=args.rules,
                judge=judge,
                judgements=run.path / JUDGEMENTS,
            )
        less = bool(scoring.rows and scoring.rows[0].less_is_better)
        texts = {item_id: text for item_id, text in answers.items() if text is not None}
        prompts = {item_id: each.prompt for item_id, each in run.answers.items()}
        sides.append(Side(str(path), run.settings, texts, scoring.scored or {}, prompts))
    found = compare_sides(*sides, less_is_better=less)
    print(json.dumps(asdict(found), indent=2) if args.json else comparison_table(found))
    return 0


def _job_of_run(run: "Run", args: argparse.Namespace) -> tuple[argparse.Namespace, "Job"]:
    """The page and the data that a run was made of, and the flags that it was made with."""
    from .evaluation import job_of, page_of

    settings, about = run.settings, run.about
    given = argparse.Namespace(**vars(args))
    is_own = about.get("metric") is not None
    given.metric, given.limit = args.metric or about.get("metric"), about.get("limit")
    given.data = args.data or about.get("data")
    given.coco = args.coco or about.get("coco")
    task = str(given.data if is_own else about.get("task"))
    page = page_of(task, given)
    for name, value in (("page", page.name), ("page version", page.version)):
        if settings.get(name) != value:
            raise ValueError(
                f"{run.path} has answers of the {name} {settings.get(name)!r}, which is now "
                f"{value!r}. Ask them anew."
            )
    return given, job_of(task, page, given)
