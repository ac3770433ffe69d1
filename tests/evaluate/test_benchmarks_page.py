"""The tables of docs/benchmarks.md are those of the pages.

`python -m tests.evaluate.test_benchmarks_page` writes them anew.
"""

import re
from pathlib import Path

from minicpmv.evaluate.page import Page, Published, Source, load_page, page_names

FILE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
MARKS = ("<!-- tables: begin -->\n", "<!-- tables: end -->\n")
GROUPS = {
    "Pictures": lambda page: True,
    "Other languages": lambda page: re.fullmatch(r"llava-bench-..", page.name),
    "Several pictures": lambda page: page.name in _SEVERAL,
    "Videos": lambda page: page.kind.startswith("video"),
    "Solved examples before the question": lambda page: page.kind == "few-shot",
    "Means of others": lambda page: page.parts,
}
_SEVERAL = ("mantis-eval", "blink-val", "mathverse-mv", "sciverse-mv", "mirb")


def tables() -> str:
    """A table for each group; a page is in the last group that it fits."""
    groups: dict[str, list[Page]] = {name: [] for name in GROUPS}
    for name in page_names():
        page = load_page(name)
        groups[[group for group, fits in GROUPS.items() if fits(page)][-1]].append(page)
    parts = []
    for group, pages in groups.items():
        lines = [f"### {group}", "", *_head(group)]
        lines += [_combined(page) if page.parts else _row(page) for page in pages]
        parts.append("\n".join([*lines, ""]))
    notes = [f"- {', '.join(names)}: {note}" for note, names in _notes().items()]
    return "\n".join([*parts, "### Notes", "", *notes, ""])


def _head(group: str) -> list[str]:
    if group == "Means of others":
        return ["| page | what | the mean of | published |", "|---|---|---|---|"]
    return [
        "| page | what | data | items | metric | judge | published |",
        "|---|---|---|---|---|---|---|",
    ]


def _row(page: Page) -> str:
    judge = "" if page.judge == "none" else f"{page.judge}; {page.judge_model}"
    metric = page.metric + (", less is better" if page.less_is_better else "")
    count = f"{page.count:,}" if page.count else ""
    cells = (
        f"`{page.name}`",
        f"{page.title}: {page.what}",
        "<br>".join(map(_source, page.sources)),
        count,
        metric,
        judge,
        _scores(page),
    )
    return f"| {' | '.join(cells)} |"


def _combined(page: Page) -> str:
    parts = [
        " and ".join(f"`{name}`" for name in part.pages)
        + (f" ÷ {part.divide:g}" if part.divide != 1 else "")
        for part in page.parts
    ]
    return f"| `{page.name}` | {page.title}: {page.what} | {', '.join(parts)} | {_scores(page)} |"


def _source(source: Source) -> str:
    name = source.file
    if source.repo:
        return f"[{source.repo}](https://huggingface.co/datasets/{source.repo})"
    return f"[{name}]({source.url})" if source.url else f"{name} (yours)"


def _scores(page: Page) -> str:
    return "<br>".join(f"{release}: {_score(each)}" for release, each in page.published.items())


def _score(published: Published) -> str:
    star = "\\*" if published.profile.endswith("-cot") else ""
    further = "".join(f", {row} {value:g}" for row, value in published.rows.items())
    return f"{published.value:g}{star}{further}{'' if published.sure else ' (?)'}"


def _notes() -> dict[str, list[str]]:
    """Note -> the pages that have it."""
    found: dict[str, list[str]] = {}
    for name in page_names():
        if note := load_page(name).note:
            found.setdefault(note, []).append(f"`{name}`")
    return found


def written(text: str) -> str:
    """`text` with the tables between the marks."""
    before, _, rest = text.partition(MARKS[0])
    return before + MARKS[0] + "\n" + tables() + "\n" + MARKS[1] + rest.partition(MARKS[1])[2]


def test_the_tables_are_those_of_the_pages():
    text = FILE.read_text(encoding="utf-8")
    assert all(mark in text for mark in MARKS)
    assert written(text) == text, "python -m tests.evaluate.test_benchmarks_page"


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text(encoding="utf-8")), encoding="utf-8")
