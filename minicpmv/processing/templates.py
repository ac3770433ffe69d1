"""Chat templates: the one of each release, and which parts of a message a template reads."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from ..releases import Release

_FOLDER = Path(__file__).parent / "chat_templates"


def released_chat_template(release: Release) -> str:
    """The Jinja text of a release."""
    return _text_of(release.chat_template)


def keys_read(template: Any) -> frozenset[str]:
    """Names that a chat template looks up in something, such as `name` in `message.name`.

    Args:
        template: Jinja text, or a dict of templates by name; None reads nothing.

    Raises:
        ValueError: it is no Jinja text.
    """
    texts = template.values() if isinstance(template, Mapping) else [template]
    return frozenset().union(*(_keys_read(text) for text in texts if isinstance(text, str)))


def check_template_variables(template: Any, given: Iterable[str]) -> None:
    """Raise ValueError for variables (`tools`, `documents`) that the template does not write."""
    texts = list(template.values()) if isinstance(template, Mapping) else [template]
    unused = [name for name in given if not any(name in str(text) for text in texts)]
    if unused:
        raise ValueError(
            f"{' and '.join(unused)} has no effect: the chat template does not write it. Put it "
            "into a message, or pass a chat_template that does."
        )


@cache
def _text_of(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def _keys_read(template: str) -> frozenset[str]:
    return frozenset(_lookups(template))


def _lookups(template: str) -> Iterator[str]:
    """Names after a dot, and texts in brackets: `a.name`, `a['name']`, `a.get('name')`."""
    try:
        tokens = list(jinja2.Environment().lex(template))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"The chat template is damaged: line {error.lineno}, {error}.") from error
    texts = [(kind, text) for _, kind, text in tokens if kind != "whitespace"]
    for (_, owner), (_, mark), (kind, text) in zip(texts, texts[1:], texts[2:], strict=False):
        if (kind, mark) == ("name", ".") and owner != "loop":
            yield text
        elif kind == "string" and (mark == "[" or (owner, mark) == ("get", "(")):
            yield text[1:-1]
