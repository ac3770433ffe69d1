"""Requests of chat completions, and the card and settings that they are read with."""

from types import SimpleNamespace
from typing import Any

from minicpmv.serve.jobs import ModelCard
from minicpmv.serve.schema.openai import ChatRequest

GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 512}
SAMPLED = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 512}


def card(defaults: dict[str, Any] | None = None, context: int | None = 4096) -> ModelCard:
    return ModelCard("m", 0, context, True, True, GREEDY if defaults is None else defaults)


def settings(**changes: Any) -> Any:
    return SimpleNamespace(**{"max_tokens": None, "lenient": False, "timeout": None} | changes)


def request(**fields: Any) -> ChatRequest:
    return ChatRequest(**{"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields)
