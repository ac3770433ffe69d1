"""What a model wrote, as HTML that no answer can break out of.

Markdown is read with raw HTML switched off and pictures left out, so an answer shows tags as they
were written and makes a browser fetch nothing. Backslashes stay, since formulas have them.
"""

import math
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from .client import Token

LEVELS = (0.95, 0.8, 0.5, 0.2)  # lower ends of the levels 0 (sure) to 3; below the last is level 4


def markdown(text: str) -> str:
    """Markdown as HTML; links open elsewhere and tell nobody where they were."""
    return str(_parser().render(text))


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"]).disable(["image", "escape"])
    parser.add_render_rule("link_open", _open_link)
    return parser


def _open_link(renderer: Any, tokens: Any, index: int, options: Any, environment: Any) -> str:
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer")
    return str(renderer.renderToken(tokens, index, options, environment))


def without_pictures(text: str) -> str:
    """Markdown whose pictures are links, for a page that would fetch them."""
    return text.replace("![", "[")


def level(logprob: float) -> int:
    """How unsure a token was: 0 (at least 95 %) to 4 (below 20 %)."""
    probability = math.exp(min(logprob, 0.0))
    return next((i for i, least in enumerate(LEVELS) if probability >= least), len(LEVELS))


def as_percent(logprob: float) -> str:
    """A probability for people: "97.3 %", "< 0.1 %"."""
    percent = 100 * math.exp(min(logprob, 0.0))
    return f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"


def coloured(tokens: Sequence[Token], label: str, ends: tuple[str, str]) -> str:
    """The tokens in order, coloured by probability, each with what else was likely at its place.

    Args:
        label: what the coloured text is called for those who cannot see it.
        ends: what the first colour means, and the last, for the scale below.
    """
    spans = "".join(_coloured(token) for token in tokens)
    name = f'role="group" aria-label="{escape(label)}"'
    boxes = "".join(f'<i class="level-{place}"></i>' for place in range(len(LEVELS) + 1))
    scale = f'<p class="scale">{escape(ends[0])} {boxes} {escape(ends[1])}</p>'
    return f'<div class="tokens" tabindex="0" {name}>{spans}</div>{scale}'


def _coloured(token: Token) -> str:
    top = list(token.top) or [(token.text, token.logprob)]
    if all(text != token.text for text, _ in top):
        top.append((token.text, token.logprob))
    rows = "".join(
        f"<span{' class=chosen' if text == token.text else ''}>"
        f"<b>{escape(visible(text))}</b><i>{as_percent(logprob)}</i></span>"
        for text, logprob in top
    )
    return (
        f'<span class="token level-{level(token.logprob)}" tabindex="-1">{escape(token.text)}'
        f'<span class="tip" role="tooltip">{rows}</span></span>'
    )


def visible(text: str) -> str:
    """A token by itself, with what cannot be seen made visible."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣") or "∅"
