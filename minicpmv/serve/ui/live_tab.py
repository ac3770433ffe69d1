"""The live tab: a view of the camera that asks by itself, drawn by `assets/live.js`."""

import json
from html import escape
from pathlib import Path

import gradio as gr

from .live import MAX_FRAMES
from .words import LANGUAGES, say

_ASSETS = Path(__file__).parent / "assets"
_WORDS = (
    "model",
    "live_hint",
    "live_start",
    "live_stop",
    "live_flip",
    "live_question",
    "live_question_value",
    "live_rate",
    "live_together",
    "live_length",
    "live_delay",
    "live_first",
    "live_answered",
    "live_dropped",
    "live_waiting",
    "live_refused",
    "live_insecure",
    "live_missing",
)


def draw_live() -> gr.HTML:
    """The view, which speaks to `live.py` without Gradio."""
    words = {code: {name: say(name, code) for name in _WORDS} for code in LANGUAGES.values()}
    template = (_ASSETS / "live.html").read_text(encoding="utf-8")
    counts = "".join(f"<option>{count}</option>" for count in range(1, MAX_FRAMES + 1))
    html = template.replace("@words@", escape(json.dumps(words, ensure_ascii=False), quote=True))
    return gr.HTML(
        html.replace("@counts@", counts),
        elem_id="live",
        js_on_load=(_ASSETS / "live.js").read_text(encoding="utf-8"),
        apply_default_css=False,
    )
