"""docs/requests.md names what is accepted, as the code does."""

import json
import re
from pathlib import Path

import pytest

from minicpmv.serve.errors import ApiError
from minicpmv.serve.parameters import _ONLY, _WITHOUT_EFFECT, generation
from minicpmv.serve.schema.openai import ChatRequest, Sampling

from ..helpers.chat_requests import card, request, settings

TEXT = (Path(__file__).parents[2] / "docs" / "requests.md").read_text(encoding="utf-8")


def test_fields_without_effect_are_named() -> None:
    (paragraph,) = re.findall(r"Accepted without effect: (.*?)\n\n", TEXT, re.DOTALL)
    named = set(re.findall(r"`(\w+)`", paragraph))
    assert named == _WITHOUT_EFFECT | {"name"}


def test_values_without_effect_are_named() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*`) \|$", TEXT, re.MULTILINE))
    assert {
        name: [json.loads(value) for value in re.findall(r"`(.*?)`", values)]
        for name, values in rows.items()
    } == {name: list(values) for name, (values, _) in _ONLY.items()}


@pytest.mark.parametrize("name", sorted(_ONLY))
def test_they_are_accepted_and_others_refused(name: str) -> None:
    for value in _ONLY[name][0]:
        generation(request(**{name: value}), card(), settings())
    others = {False: True, True: False}
    (first, *_), _ = _ONLY[name]
    other = others[first] if isinstance(first, bool) else "other"
    other = {list: ["audio"], dict: {"x": 1}}.get(type(first), other)
    with pytest.raises(ApiError):
        generation(request(**{name: other}), card(), settings())


def test_every_parameter_has_a_row() -> None:
    named = set(re.findall(r"`(\w+)`", TEXT))
    assert set(Sampling.model_fields) <= named
    known = set(ChatRequest.model_fields) - {"model", "messages", "stream", "tools", "tool_choice"}
    others = {"response_format", "structured_outputs", "parallel_tool_calls", "stream_options"}
    assert known - others - {"return_tokens_as_token_ids"} <= named
