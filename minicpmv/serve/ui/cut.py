"""How pictures are cut, drawn on them, and what they cost: from the server's settings alone."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any

from PIL import Image, ImageOps

from ...errors import ArgumentError
from ...processing.cost import Cost, CutSettings, plan_cost
from .client import Model
from .uploads import Attachment, Uploads
from .words import say

SHOWN_PX = 640  # longer side of a picture in the panel
MAX_SHOWN = 24  # pictures in the panel


def settings_of(pictures: Mapping[str, Any] | None) -> CutSettings | None:
    """The settings that a server told; None where they are not those we know."""
    if pictures is None:
        return None
    known = {field.name for field in fields(CutSettings)}
    try:
        return CutSettings(**{name: value for name, value in pictures.items() if name in known})
    except TypeError:
        return None


def panel(
    files: Sequence[Attachment], uploads: Uploads, model: Model | None, slices: int, language: str
) -> str:
    """The pictures with their cut, and what all of them cost, as HTML.

    Args:
        slices: most cells of a picture; 0 leaves it to the model.
    """
    pictures = [file for file in files if file.kind == "picture"]
    if not pictures:
        return f'<p class="hint">{say("seen_hint", language)}</p>'
    settings = settings_of(model.pictures if model else None)
    figures, total = [], 0
    for file in pictures[:MAX_SHOWN]:
        try:
            figure, tokens = _figure(file, uploads, settings, slices, language)
        except (OSError, ValueError):
            shown = say("seen_unread", language, name=escape(file.name))
            figure, tokens = f'<p class="hint">{shown}</p>', 0
        figures.append(figure)
        total += tokens
    if settings is None:
        summary = say("seen_unknown", language)
    elif model is not None and model.context:
        share = f"{100 * total / model.context:.0f} %"
        summary = say("total_context", language, tokens=total, share=share)
    else:
        summary = say("total", language, tokens=total)
    return f'<p class="sum">{summary}</p><div class="cuts">{"".join(figures)}</div>'


def _figure(
    file: Attachment, uploads: Uploads, settings: CutSettings | None, slices: int, language: str
) -> tuple[str, int]:
    """A picture with its grid and its cost, and how many tokens that is."""
    with Image.open(uploads.check(file.path)) as opened:
        picture = ImageOps.exif_transpose(opened)
        assert picture is not None
        width, height = picture.size
        picture.thumbnail((SHOWN_PX, SHOWN_PX))
        url = _data_url(picture)
    cost = None if settings is None else cost_of(height, width, settings, slices)
    lines = [f"<b>{escape(file.name)}</b>", say("size", language, width=width, height=height)]
    if cost is not None:
        lines.append(_cost_line(cost, language))
    grid = "" if cost is None or cost.plan.grid is None else _grid(*cost.plan.grid)
    alt = escape(f"{file.name}: {', '.join(lines[1:])}", quote=True)
    html = (
        f'<figure><div class="cut"><img src="{url}" alt="{alt}">{grid}</div>'
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
    )
    return html, 0 if cost is None else cost.num_tokens


def cost_of(height: int, width: int, settings: CutSettings, slices: int) -> Cost | None:
    """The cut of a picture; None where the settings make no sense of it."""
    most = slices or settings.max_slice_nums
    try:
        return plan_cost(height, width, None if settings.image_size else most, settings)
    except (ArgumentError, ValueError):
        return None


def _cost_line(cost: Cost, language: str) -> str:
    if cost.plan.grid is None:
        return say("whole", language, tokens=cost.num_tokens)
    rows, cols = cost.plan.grid
    return say(
        "cut",
        language,
        tokens=cost.num_tokens,
        slices=cost.plan.num_slices,
        rows=rows,
        cols=cols,
    )


def _grid(rows: int, cols: int) -> str:
    """Cells over the picture, numbered as the model is shown them; the whole comes before."""
    cells = "".join(f"<i><b>{number}</b></i>" for number in range(1, rows * cols + 1))
    return f'<div class="grid" style="--rows:{rows};--cols:{cols}" aria-hidden="true">{cells}</div>'


def _data_url(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
