"""The conversation as HTML: questions with their files, answers with what they cost.

Everything that a person, a model or a server wrote is escaped here, or by `markup`.
"""

import re
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from .conversation import Cost, Turn
from .examples import Example
from .markup import coloured, markdown
from .uploads import Attachment
from .words import say

_ICONS = {
    "copy": "M9 9h10v10H9zM5 15V5h10",
    "retry": "M4 12a8 8 0 1 1 2.5 5.8M4 19v-5h5",
    "edit": "M4 20h4L19 9l-4-4L4 16z",
}
LOADING = '<div class="loading" aria-hidden="true"></div>'


def conversation(turns: Sequence[Turn], language: str, *, colours: bool) -> str:
    """All turns, one article each.

    Args:
        colours: show the tokens of the answers by their probabilities.
    """
    return "".join(
        f'<article class="turn" data-turn="{index}">{_question(turn, language)}'
        f"{_answer(turn, language, colours=colours)}</article>"
        for index, turn in enumerate(turns)
    )


def welcome(examples: Sequence[Example], language: str, note: str = "") -> str:
    """What is there before the first question: examples to click."""
    cards = "".join(
        f'<button type="button" class="example" data-example="{index}">'
        f"<span>{''.join(_thumbnail(file) for file in example.files)}</span>"
        f"{escape(example.text(language))}</button>"
        for index, example in enumerate(examples)
    )
    more = f'<p class="hint">{escape(note)}</p>' if note else ""
    return (
        f'<div class="welcome"><h2>{say("welcome", language)}</h2>'
        f'<p>{say("welcome_more", language)}</p><div class="examples">{cards}</div>{more}</div>'
    )


def camera(language: str) -> str:
    """The button of the camera, and the dialog that it opens."""
    notes = " ".join(
        f'data-{name}="{escape(say(f"live_{name}", language))}"'
        for name in ("insecure", "missing", "refused")
    )
    buttons = "".join(
        f'<button type="button" data-do="{do}"{extra}>{say(word, language)}</button>'
        for do, word, extra in (
            ("take", "camera_take", ' class="primary" disabled'),
            ("flip", "live_flip", ""),
            ("close", "close", ""),
        )
    )
    word = say("camera", language)
    return (
        f'<button type="button" class="plain" data-do="open">{word}</button>'
        f'<dialog class="camera" aria-label="{word}"><video playsinline muted></video>'
        f'<p role="status" {notes}></p><div>{buttons}</div></dialog>'
    )


def _question(turn: Turn, language: str) -> str:
    files = "".join(_file(file) for file in turn.files)
    shown = f'<div class="files">{files}</div>' if files else ""
    text = f'<div class="text">{escape(turn.text)}</div>' if turn.text else ""
    tools = _tool("edit", language) if turn.ending else ""
    return f'<div class="question">{shown}{text}</div><div class="tools right">{tools}</div>'


def _answer(turn: Turn, language: str, *, colours: bool) -> str:
    busy = "" if turn.ending else ' aria-busy="true"'
    tools = ""
    if turn.ending:
        copy = _tool("copy", language, turn.answer) if turn.answer else ""
        tools = f"{copy}{_tool('retry', language)}"
    return (
        f'<div class="answer"{busy}>{said(turn, language, colours=colours)}</div>'
        f'<div class="tools">{tools}{_cost(turn, language)}</div>'
    )


def said(turn: Turn, language: str, *, colours: bool) -> str:
    """What an answer says so far, and what went wrong."""
    if colours and turn.tokens:
        ends = (say("likely", language), say("unlikely", language))
        html = coloured(turn.tokens, say("probabilities", language), ends)
    else:
        html = f'<div class="markdown">{markdown(turn.answer)}</div>' if turn.answer else ""
    if not turn.ending and not turn.answer:
        html = f'<span class="waiting" role="status">{say("waiting", language)}</span>'
    if turn.ending == "error":
        title, problem = say("error", language), escape(on_page(turn.problem, language))
        html += f'<p class="problem" role="alert"><b>{title}</b> {problem}</p>'
    return html


# Fields of requests that a server speaks of, and the controls of the page that set them.
_CONTROLS = {
    "mm_processor_kwargs.max_slice_nums": "slices",
    "mm_processor_kwargs.num_frames": "frames",
    "repetition_penalty": "penalty",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
}
_FIELD = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, _CONTROLS))})(?![\w.]*\w)")


def on_page(problem: str, language: str) -> str:
    """What a server said, with the page's own names of what can be changed there."""
    return _FIELD.sub(lambda field: f"“{say(_CONTROLS[field[0]], language)}”", problem)


def side(turn: Turn, name: str, language: str) -> str:
    """An answer by itself, beside another."""
    return (
        f'<div class="answer" role="group" aria-label="{escape(name)}">'
        f"{said(turn, language, colours=False)}</div>"
        f'<div class="tools">{_cost(turn, language)}</div>'
    )


def _cost(turn: Turn, language: str) -> str:
    notes = []
    if turn.ending == "stopped":
        notes.append(say("stopped", language))
    if turn.ending == "length":
        notes.append(say("cut_off", language))
    if turn.cost is not None:
        notes += cost_notes(turn.cost, language)
    spans = "".join(f"<span>{escape(note)}</span>" for note in notes)
    return f'<span class="cost">{spans}</span>' if notes else ""


def cost_notes(cost: Cost, language: str) -> list[str]:
    """Tokens, seconds and speed, each a short phrase."""
    key = "cost_cached" if cost.cached else "cost"
    counts = {"prompt": cost.prompt, "answer": cost.answer, "cached": cost.cached}
    notes = [
        say(key, language, **counts),
        say("first", language, seconds=_seconds(cost.first_s)),
        say("took", language, seconds=_seconds(cost.seconds)),
    ]
    if cost.tokens_per_second:
        notes.append(say("rate", language, rate=f"{cost.tokens_per_second:.0f}"))
    return notes


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _tool(name: str, language: str, text: str | None = None) -> str:
    """A small button; `text` is what it copies."""
    kept = "" if text is None else f' data-text="{escape(text)}"'
    word = say(name, language)
    return (
        f'<button type="button" class="tool" data-do="{name}"{kept} title="{word}" '
        f'aria-label="{word}"><svg viewBox="0 0 24 24" aria-hidden="true">'
        f'<path d="{_ICONS[name]}"/></svg></button>'
    )


def _file(file: Attachment) -> str:
    address, name = escape(_address(file)), escape(file.name)
    if file.kind == "video":
        return f'<video src="{address}" controls preload="metadata" aria-label="{name}"></video>'
    return (
        f'<a href="{address}" target="_blank" title="{name}"><img src="{address}" alt="{name}"></a>'
    )


def _thumbnail(file: Attachment) -> str:
    return f'<img src="{escape(_address(file))}" alt="">'


def _address(file: Attachment) -> str:
    """Where the page serves an upload."""
    return f"gradio_api/file={quote(file.path)}"
