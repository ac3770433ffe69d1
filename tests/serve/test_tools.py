"""Calls of functions: what is demanded of the model, and what its answers say."""

import json
from functools import cache
from itertools import count, repeat
from random import Random

import pytest
from starlette.testclient import TestClient

from minicpmv import load
from minicpmv.engine.matching import vocabulary_of
from minicpmv.serve.errors import ApiError
from minicpmv.serve.jobs import ModelCard
from minicpmv.serve.schema.openai import ChatRequest
from minicpmv.serve.tools import CallReader, calls_of, with_instructions

from ..helpers.schemas import random_object
from ..helpers.serving import QUESTION, FakeBackend, events_of, fake_app

CHAT = "/v1/chat/completions"
CARD = ModelCard("fake", 1, 4096, True, True, {})
WITH_TOOLS = ModelCard("fake", 1, 4096, True, True, {}, supports_tools=True)
WEATHER = {
    "name": "get_weather",
    "description": "The weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "description": "A town"}},
        "required": ["place"],
    },
}
TREE = {
    "name": "draw",
    "parameters": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/Node"}},
        "required": ["tree"],
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "name": {"enum": ["a", "b"]},
                    "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                },
                "required": ["name", "next"],
            }
        },
    },
}
NOTHING = {"name": "stop"}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
A_CALL = '{"name": "get_weather", "arguments": {"place": "Bonn, \\"}]\\" {"}}'
A_TREE = '{"name":"draw","arguments":{"tree":{"name":"a","next":{"name": "b", "next": null}}}}'


def tools(*functions):
    return [{"type": "function", "function": function} for function in functions]


def asked(*functions, card=CARD, is_lenient=False, **fields):
    body = ChatRequest.model_validate({**QUESTION, "tools": tools(*functions), **fields})
    return calls_of(body, card, is_lenient=is_lenient)


@cache
def vocabulary():
    return vocabulary_of(load("nano").processor)


def accepts(calls, text):
    matcher = vocabulary().matcher(calls.constraint)
    for token in vocabulary().spelling.ids_of(text):
        if not matcher.num_allowed([token]):
            return False
        matcher.append(token)
    return matcher.is_complete or bool(matcher.allowed()[vocabulary().terminators].all())


def test_a_named_function_is_called_once():
    for parallel in (None, False, True):
        calls = asked(WEATHER, TREE, tool_choice=NAMED, parallel_tool_calls=parallel)
        assert accepts(calls, A_CALL)
        assert not accepts(calls, A_TREE)
        assert not accepts(calls, f"[{A_CALL}]")
        assert not accepts(calls, A_CALL.replace("}}", ', "more": 1}}'))
        assert "draw" not in calls.instructions


def test_one_of_the_functions_is_called():
    for parallel in (None, False):
        calls = asked(WEATHER, TREE, NOTHING, tool_choice="required", parallel_tool_calls=parallel)
        for text in (A_CALL, A_TREE, '{"name": "stop", "arguments": {}}'):
            assert accepts(calls, text)
            assert not accepts(calls, f"[{text}]")
        others = ["Hello", "{}", '{"name": "stop", "arguments": {"a": 1}}']
        others += [A_CALL.replace("get_weather", "draw"), A_TREE.replace('"b"', '"c"')]
        for text in others:
            assert not accepts(calls, text)


def allowed(mode, *names):
    some = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": some}}


def test_only_some_of_the_tools_may_be_allowed():
    choice = allowed("required", "draw", "stop")
    calls = asked(WEATHER, TREE, NOTHING, tool_choice=choice)
    assert accepts(calls, A_TREE)
    assert accepts(calls, '{"name": "stop", "arguments": {}}')
    assert not accepts(calls, A_CALL)
    assert not accepts(calls, "It is warm.")
    assert "get_weather" not in calls.instructions
    assert accepts(asked(WEATHER, TREE, tool_choice=allowed("required", "draw")), A_TREE)
    calls = asked(WEATHER, TREE, tool_choice=allowed("auto", "draw"), card=WITH_TOOLS)
    assert accepts(calls, "It is warm.")
    assert not accepts(calls, A_CALL)


def test_several_calls_are_a_list():
    calls = asked(WEATHER, TREE, tool_choice="required", parallel_tool_calls=True)
    assert accepts(calls, f"[{A_CALL}]")
    assert accepts(calls, f"[{A_TREE}, {A_CALL}]")
    assert accepts(calls, f"[{', '.join([A_CALL] * 16)}]")
    assert not accepts(calls, f"[{', '.join([A_CALL] * 17)}]")
    assert not accepts(calls, "[]")
    assert not accepts(calls, A_CALL)


def test_a_model_that_knows_tools_may_choose():
    for fields in ({}, {"tool_choice": "auto"}):
        calls = asked(WEATHER, card=WITH_TOOLS, **fields)
        for text in ("It is warm.", A_CALL, 'a "b" [1]\n'):
            assert accepts(calls, text)
        assert not accepts(calls, '{"name"')
        assert calls.said("It is [warm].") == ("It is [warm].", [])
        words, found = calls.said(A_CALL)
        assert (words, found[0].name) == ("", "get_weather")
        reader = calls.reader()
        assert [reader.read(piece) for piece in ("It", " is", " {")] == [
            ("It", []),
            (" is", []),
            (" {", []),
        ]
        assert reader.num_calls == 0


@pytest.mark.parametrize("fields", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}])
def test_without_tools_the_answer_is_text(fields):
    assert asked(**fields) is None
    if fields.get("tool_choice") == "none":
        assert asked(WEATHER, **fields) is None


@pytest.mark.parametrize(
    ("functions", "fields", "param", "message"),
    [
        ([WEATHER], {}, "tool_choice", "is absent, which means auto, and the chat template"),
        ([WEATHER], {"tool_choice": "auto"}, "tool_choice", "is auto, and the chat template of"),
        ([], {"tool_choice": "required"}, "tool_choice", "and there are no tools"),
        ([], {"tool_choice": NAMED}, "tool_choice", "and there are no tools"),
        ([], {"tool_choice": allowed("auto", "draw")}, "tool_choice", "and there are no tools"),
        ([TREE], {"tool_choice": allowed("auto", "draw")}, "tool_choice", "is auto, and the chat"),
        ([TREE], {"tool_choice": allowed("required", "draw", "x")},
         "tool_choice.allowed_tools.tools[1].function.name", "is 'x'; the tools are draw"),
        ([TREE], {"tool_choice": NAMED}, "tool_choice.function.name", "is 'get_weather'; the"),
        ([WEATHER, TREE, WEATHER], {"tool_choice": "required"}, "tools[2].function.name",
         "is 'get_weather' for the second time."),
        ([WEATHER, {"name": "a", "parameters": {"not": {}}}], {"tool_choice": "required"},
         "tools[1].function.parameters", "cannot be kept to: Unimplemented keys"),
        ([{"name": "a", "parameters": {"type": "array"}}], {"tool_choice": "required"},
         "tools[0].function.parameters.type", 'is "array"; arguments are an object.'),
        ([{"name": "a", "parameters": {"title": "a" * 65536}}], {"tool_choice": "required"},
         "tools[0].function.parameters", "at most 65536 are taken."),
        ([{"name": n, "parameters": {"title": "a" * 40000}} for n in "ab"],
         {"tool_choice": "required"}, "tools", "have schemas of 80"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_field(functions, fields, param, message):
    with pytest.raises(ApiError) as raised:
        asked(*functions, **fields)
    assert (raised.value.status, raised.value.param) == (400, param)
    assert raised.value.message.startswith(param)
    assert message in raised.value.message


def test_a_lenient_server_forgets_what_the_model_cannot_choose():
    assert asked(WEATHER, is_lenient=True) is None
    assert asked(WEATHER, tool_choice="required", is_lenient=True) is not None


def test_the_model_is_told_what_it_can_call():
    parameters = {"title": "Weather", "additionalProperties": False, **WEATHER["parameters"]}
    parameters["properties"] = {**parameters["properties"], "title": {"type": "string"}}
    function = {**WEATHER, "parameters": parameters}
    calls = asked(function, NOTHING, tool_choice="required")
    assert calls.instructions == (
        'You can call functions. Answer with a call {"name": NAME, "arguments": {...}} and nothing '
        "else.\n"
        "\nget_weather: The weather at a place.\n"
        'arguments: {"type":"object","properties":{"place":{"type":"string","description":'
        '"A town"},"title":{"type":"string"}},"required":["place"]}\n'
        "\nstop\n"
        'arguments: {"type":"object","properties":{}}'
    )
    user = {"role": "user", "content": "Hello"}
    assert with_instructions([user], "Do.") == [{"role": "system", "content": "Do."}, user]
    system = {"role": "system", "content": "Be kind."}
    messages = [system, user]
    assert with_instructions(messages, "Do.")[0]["content"] == "Be kind.\n\nDo."
    assert messages[0]["content"] == "Be kind."


def read_in_pieces(text, sizes):
    reader = CallReader(False)
    calls = {}
    while text:
        size = next(sizes)
        for delta in reader.read(text[:size])[1]:
            if delta.id is not None:
                assert delta.arguments == ""
                assert delta.index == len(calls)
                calls[delta.index] = [delta.name, ""]
            else:
                assert delta.arguments
            calls[delta.index][1] += delta.arguments
        text = text[size:]
    assert reader.num_calls == len(calls)
    return [tuple(call) for call in calls.values()]


def test_pieces_of_arguments_are_what_the_model_wrote():
    rng = Random(2)
    for number in range(60):
        schema, _ = random_object(Random(number))
        arguments = [
            json.dumps({"s": schema, "t": rng.choice(['"', "\\", "}]{", "é\n"])}),
            "{}",
            '{"a":[],"b":"\\\\"}',
        ][: rng.randint(1, 3)]
        texts = [f'{{"name": "f{i}", "arguments": {a}}}' for i, a in enumerate(arguments)]
        text = texts[0] if len(texts) == 1 else f"[{rng.choice([',', ', ']).join(texts)}]"
        expected = [(f"f{i}", a) for i, a in enumerate(arguments)]
        assert read_in_pieces(text, repeat(1)) == expected
        assert read_in_pieces(text, (rng.randint(1, 9) for _ in count())) == expected
        assert read_in_pieces(text, repeat(len(text))) == expected


@pytest.mark.parametrize("length", range(len(A_CALL)))
def test_an_answer_that_was_cut_keeps_its_beginning(length):
    calls = asked(WEATHER, tool_choice=NAMED)
    words, found = calls.said(A_CALL[:length])
    assert words == ""
    start = A_CALL.index('{"place')
    assert [call.arguments for call in found] == ([A_CALL[start:length]] if length > start else [])


@pytest.mark.parametrize("text", [A_CALL, f"[{A_CALL}, {A_TREE}]"])
def test_calls_over_http(text):
    words = [text[place : place + 7] for place in range(0, len(text), 7)]
    backend = FakeBackend(words=words)
    body = {
        **QUESTION,
        "tools": tools(WEATHER, TREE),
        "tool_choice": "required",
        "parallel_tool_calls": text.startswith("["),
    }
    with TestClient(fake_app(backend)) as client:
        whole = client.post(CHAT, json=body).json()["choices"][0]
        streamed = events_of(client.post(CHAT, json={**body, "stream": True}).text)
    assert whole["finish_reason"] == "tool_calls"
    message = whole["message"]
    assert message["content"] is None
    calls = message["tool_calls"]
    assert {call["type"] for call in calls} == {"function"}
    assert all(call["id"].startswith("call_") for call in calls)
    expected = json.loads(text)
    expected = expected if isinstance(expected, list) else [expected]
    found = [
        {"name": c["function"]["name"], "arguments": json.loads(c["function"]["arguments"])}
        for c in calls
    ]
    assert found == expected
    assert backend.jobs[0].prompt[0]["role"] == "system"
    assert "get_weather: The weather at a place." in backend.jobs[0].prompt[0]["content"]

    deltas = [chunk["choices"][0]["delta"] for chunk in streamed]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"
    joined = {}
    for delta in deltas[1:-1]:
        (piece,) = delta["tool_calls"]
        if "id" in piece:
            joined[piece["index"]] = {"name": piece["function"]["name"], "arguments": ""}
        joined[piece["index"]]["arguments"] += piece["function"]["arguments"]
    assert list(joined.values()) == [call["function"] for call in calls]


def test_calls_that_were_cut_say_so():
    backend = FakeBackend(words=('{"name": "get_weather", "arg', 'uments": {"pl'))
    backend.finish_reason = "length"
    body = {**QUESTION, "tools": tools(WEATHER), "tool_choice": NAMED}
    with TestClient(fake_app(backend)) as client:
        choice = client.post(CHAT, json=body).json()["choices"][0]
        backend.words = ('{"na',)
        short = client.post(CHAT, json=body).json()["choices"][0]
    assert choice["finish_reason"] == short["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"pl'
    assert short["message"] == {"role": "assistant", "content": "", "refusal": None}


def test_a_form_beside_calls_is_refused():
    body = {**QUESTION, "tools": tools(WEATHER), "tool_choice": NAMED}
    body["response_format"] = {"type": "json_object"}
    with TestClient(fake_app()) as client:
        error = client.post(CHAT, json=body).json()["error"]
        assert error["param"] == "response_format"
        body["tool_choice"] = "none"
        assert client.post(CHAT, json=body).status_code == 200


def test_calls_and_results_may_come_back():
    """As clients send them to go on, or to try again."""
    backend = FakeBackend()
    call = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "get_weather", "arguments": '{"place": "Bonn"}'}
    messages = [
        *QUESTION["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It rains."},
    ]
    with TestClient(fake_app(backend)) as client:
        body = {**QUESTION, "messages": messages, "tools": tools(WEATHER), "tool_choice": "none"}
        assert client.post(CHAT, json=body).status_code == 200
    written = [(turn["role"], turn["content"]) for turn in backend.jobs[0].prompt]
    assert written == [
        ("user", "How many?"),
        ("assistant", '{"name": "get_weather", "arguments": {"place": "Bonn"}}'),
        ("user", "Result of get_weather: It rains."),
    ]
