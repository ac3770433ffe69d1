"""A page for a file of the user's: its questions as they are, and a metric by name."""

import json
from pathlib import Path

from .page import Page, read_page

SUFFIXES = (".jsonl", ".json", ".tsv", ".parquet")
_PAGE = """
title = "questions of your own"
what = "what the file asks"
metric = {metric}

[[sources]]
kind = {kind}
file = {file}

[profiles.all]
prompt = "{{pictures}}{{hint}}{{question}}\\n{{options}}"
prompt_without_options = "{{pictures}}{{hint}}{{question}}"
options = "{{options}}Answer with the option's letter from the given choices directly."
"""


def is_own(name: str) -> bool:
    """Whether a task is a file with questions, not the name of a page."""
    return name.lower().endswith(SUFFIXES)


def own_page(file: Path, metric: str) -> Page:
    """The page of a file. Releases generate as on the pages of cards, and answer in their words.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the metric is not known.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file.")
    kind = file.suffix.lower().removeprefix(".")
    kind = "jsonl" if kind == "json" else kind
    values = {"metric": metric, "kind": kind, "file": file.name}
    text = _PAGE.format(**{name: json.dumps(value) for name, value in values.items()})
    return read_page(text, file.stem, str(file))
