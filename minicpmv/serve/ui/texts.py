"""Components whose texts follow the chosen language."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from .words import say

Text = str | Callable[[str], Any]


class Texts:
    """Remembers which property of which component is which text."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, dict[str, Text]]] = []

    def add(self, component: Any, **properties: Text) -> Any:
        """The component itself, with the texts in English for a start.

        Args:
            properties: keys of the texts, or functions from the language.
        """
        for name, text in properties.items():
            setattr(component, name, _text(text, "en"))
        self._rows.append((component, properties))
        return component

    @property
    def components(self) -> list[Any]:
        return [component for component, _ in self._rows]

    def updates(self, language: str) -> list[Any]:
        """One update for each of `components`."""
        return [
            gr.update(**{name: _text(text, language) for name, text in properties.items()})
            for _, properties in self._rows
        ]


def _text(text: Text, language: str) -> Any:
    return say(text, language) if isinstance(text, str) else text(language)
