"""A page to look through the answers of a run with their pictures: one file, without a network.

Everything a model or a data set has said stands in the page as JSON and is shown as text. The page
may run its own script only.
"""

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from minicpmv.evaluate.items import Item, Picture
from minicpmv.evaluate.metrics.contract import Score, Scored
from minicpmv.media.image import load_image

_FOLDER = Path(__file__).parent
_SIDE_PX, _QUALITY = 768, 80  # of a picture on the page
_PICTURES = 6  # of an item
_TEXT = 8000  # characters of one text
_MOST_GROUPS = 60  # values of a field that is a category
_SEPARATE = {
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
}


@dataclass(frozen=True)
class Judged:
    """An answer and what it is worth."""

    answer: str
    scored: Scored


@dataclass(frozen=True)
class Written:
    """What is on a page: `shown` of `total` answers, of which `failures` are not wholly right."""

    shown: int
    failures: int
    total: int


def state_of(scored: Scored, less_is_better: bool = False) -> str:
    """ "right", "wrong", "part" (between the two) or "unread"."""
    if scored.value is None:
        return "unread"
    worth = 1 - scored.value if less_is_better else scored.value
    return "right" if worth >= 1 else "wrong" if worth <= 0 else "part"


def write_page(
    path: Path,
    items: Iterable[Item],
    judged: Mapping[str, Judged],
    *,
    title: str,
    facts: str = "",
    scores: Sequence[Score] = (),
    most: int = 300,
    most_bytes: int = 32 << 20,
) -> Written:
    """Write the page of a run: failures first, the worst before others, then what is right.

    Args:
        items: all items of the run, in the order of the page; read once, one at a time.
        judged: by the id of the item; items that are not in it are left out.
        scores: the table; the direction of its first row says which values are right.
        most: answers on the page; most_bytes: of the file, which ends earlier if need be.

    Raises:
        OSError: the file cannot be written.
    """
    less = bool(scores) and scores[0].less_is_better
    order = {name: number for number, name in enumerate(("wrong", "unread", "part", "right"))}

    def rank(item_id: str) -> tuple[int, float]:
        scored = judged[item_id].scored
        value = scored.value or 0.0
        return order[state_of(scored, less)], -value if less else value

    chosen = dict.fromkeys(sorted(judged, key=rank)[:most])
    kept: dict[str, dict[str, Any]] = {}
    for item in items:
        if item.id in chosen:
            kept[item.id] = _entry(item, judged[item.id], less)
            if len(kept) == len(chosen):
                break
    entries: list[dict[str, Any]] = []
    size = 0
    for item_id in chosen:
        if item_id not in kept:
            continue
        size += len(json.dumps(kept[item_id]))
        if size > most_bytes and entries:
            break
        entries.append(kept[item_id])
    failures = sum(state_of(each.scored, less) != "right" for each in judged.values())
    written = Written(len(entries), failures, len(judged))
    data = {
        "title": title,
        "facts": " \u00b7 ".join(part for part in (facts, _left_out(written)) if part),
        "scores": [_row(score) for score in scores],
        "groups": _groups(entries),
        "items": entries,
    }
    new = path.with_name(f"{path.name}.new")
    new.write_text(_page(data), encoding="utf-8", errors="replace")
    new.replace(path)
    return written


def _left_out(written: Written) -> str:
    counts = f"{written.total} answers, {written.failures} of them not wholly right"
    if written.shown == written.total:
        return counts
    return f"{counts}; the page shows {written.shown}, the worst first, and leaves out the others"


def _page(data: Mapping[str, Any]) -> str:
    parts = {
        name: (_FOLDER / f"failures.{name}").read_text("utf-8") for name in ("css", "js", "html")
    }
    text = json.dumps(data, ensure_ascii=False)
    for mark, spelt in _SEPARATE.items():
        text = text.replace(mark, spelt)
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(parts['css'])}; script-src {_hash(parts['js'])}"
    )
    page = parts["html"]
    for name, value in (
        ("policy", policy),
        ("style", parts["css"]),
        ("script", parts["js"]),
        ("data", text),  # last: it may hold the other names
    ):
        page = page.replace(f"{{{name}}}", value, 1)
    return page


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _entry(item: Item, judged: Judged, less_is_better: bool) -> dict[str, Any]:
    scored = judged.scored
    urls, notes = [], []
    for number, picture in enumerate(item.pictures[:_PICTURES], 1):
        try:
            urls.append(_small(picture))
        except (OSError, ValueError) as error:
            notes.append(f"Picture {number} cannot be shown: {error}")
    if len(item.pictures) > _PICTURES:
        notes.append(f"{len(item.pictures) - _PICTURES} more pictures are not shown.")
    if item.video is not None:
        notes.append(f"Video: {item.video.name}")
    fields = [
        (name, _text(value)) for name, value in item.fields.items() if value not in ("", None)
    ]
    return {
        "id": item.id,
        "state": state_of(scored, less_is_better),
        "value": None if scored.value is None else round(scored.value, 3),
        "question": _cut(item.question),
        "options": [[letter, _cut(text)] for letter, text in item.options.items()],
        "answers": [_cut(each) for each in item.answers],
        "said": _cut(judged.answer),
        "parsed": None if scored.parsed is None else _cut(scored.parsed),
        "detail": [(name, _text(value)) for name, value in scored.detail.items()],
        "fields": fields,
        "groups": _categories(item),
        "pictures": urls,
        "note": " ".join(notes),
    }


def _small(picture: Picture) -> str:
    image: Image.Image = load_image(picture).convert("RGB")
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _categories(item: Item) -> list[tuple[str, str]]:
    """Fields that may be a category, with their values; several of a list."""
    found = []
    for name, value in item.fields.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, str) and 0 < len(each) <= 60:
                found.append((name, each))
    return found


def _groups(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Fields that are a category: some values, fewer than there are items."""
    counts: dict[str, Counter[str]] = {}
    for entry in entries:
        for name, value in entry["groups"]:
            counts.setdefault(name, Counter())[value] += 1
    return [
        (name, sorted(values))
        for name, values in counts.items()
        if 1 < len(values) <= _MOST_GROUPS and len(values) <= values.total() / 2
    ]


def _row(score: Score) -> list[str]:
    value, low, high = (f"{number:.1f}" for number in (score.value, score.low, score.high))
    unit = f" {score.unit}" if score.unit else ""
    unread = str(score.unparsed) if score.unparsed else ""
    return [score.name, f"{value}{unit}", f"{low} to {high}", str(score.total), unread]


def _text(value: Any) -> str:
    return _cut(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    )


def _cut(text: str) -> str:
    left = len(text) - _TEXT
    return text if left <= 0 else f"{text[:_TEXT]} [and {left} characters more]"
