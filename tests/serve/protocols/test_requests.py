"""Requests of other protocols as chat completions."""

from typing import Any

import pytest

from minicpmv.serve.bodies import validate
from minicpmv.serve.errors import ApiError
from minicpmv.serve.protocols.anthropic_request import chat_of_messages
from minicpmv.serve.protocols.names import Names
from minicpmv.serve.protocols.ollama_request import chat_of_ollama, model_name, tagged
from minicpmv.serve.protocols.responses_request import chat_of_responses
from minicpmv.serve.schema import ollama
from minicpmv.serve.schema.anthropic import CountTokensRequest, MessagesRequest
from minicpmv.serve.schema.openai import ChatRequest
from minicpmv.serve.schema.responses import ResponsesRequest

from ...helpers.recorded_requests import recorded, request_of

OLLAMA: dict[str, type[ollama.GenerationRequest]] = {
    "/api/chat": ollama.ChatRequest,
    "/api/generate": ollama.GenerateRequest,
}
ALL = {
    "/v1/responses": (ResponsesRequest, chat_of_responses),
    "/v1/messages": (MessagesRequest, chat_of_messages),
    "/v1/messages/count_tokens": (CountTokensRequest, chat_of_messages),
    **{path: (model, chat_of_ollama) for path, model in OLLAMA.items()},
}


def converted(path: str, body: dict[str, Any]) -> tuple[ChatRequest, Names]:
    model, convert = ALL[path]
    fields, names = convert(validate(model, body))  # type: ignore[operator]
    with names.errors():
        return validate(ChatRequest, fields), names


def chat_of(path: str, body: dict[str, Any]) -> dict[str, Any]:
    chat, _ = converted(path, body)
    return chat.model_dump(exclude_none=True, by_alias=True)


@pytest.mark.parametrize("path", ALL)
def test_what_clients_send_is_a_chat_completion(path: str) -> None:
    bodies = list(recorded(path))
    assert bodies
    for client, body in bodies:
        if path == "/api/generate" and "prompt" not in body:
            continue  # loads the model
        chat = chat_of(path, body)
        assert chat["model"] == "nano", client
        assert chat["messages"], client


def refused(path: str, body: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        converted(path, body)
    return caught.value


def test_a_response_asks_what_a_chat_completion_asks() -> None:
    body = request_of("/v1/responses", "picture")
    url = body["input"][0]["content"][1]["image_url"]
    assert chat_of("/v1/responses", body) == {
        "model": "nano",
        "messages": [
            {"role": "system", "content": "Be short."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
                ],
            },
        ],
        "temperature": 0,
        "top_p": 1,
        "max_completion_tokens": 20,
        "logprobs": True,
        "top_logprobs": 2,
    }


def test_calls_in_the_input_belong_to_the_turn_of_the_assistant() -> None:
    chat = chat_of("/v1/responses", request_of("/v1/responses", "turns"))
    roles = [message["role"] for message in chat["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    (call,) = chat["messages"][1]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Bonn"}'}
    assert chat["messages"][2]["tool_call_id"] == call["id"] == "call_1"


def test_tools_of_a_response_and_their_choice() -> None:
    body = request_of("/v1/responses", "tools")
    other = {**body["tools"][0], "name": "other"}
    body |= {"tools": [other, *body["tools"]]}
    allowed = {"type": "allowed_tools", "mode": "required"}
    allowed["tools"] = [{"type": "function", "name": "weather"}]  # type: ignore[assignment]
    chat = chat_of("/v1/responses", body | {"tool_choice": allowed})
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["weather"]
    assert chat["tool_choice"] == "required"
    assert chat["parallel_tool_calls"] is False
    named = {"type": "function", "name": "other"}
    chat = chat_of("/v1/responses", body | {"tool_choice": named})
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "other"}}
    allowed["tools"] = [{"type": "function", "name": "third"}]  # type: ignore[assignment]
    error = refused("/v1/responses", body | {"tool_choice": allowed})
    assert error.param == "tool_choice.tools"
    assert "'third'" in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", True),
        ("background", True),
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
def test_a_response_that_needs_a_memory_is_refused(field: str, value: Any) -> None:
    error = refused("/v1/responses", {"model": "nano", "input": "Hi", field: value})
    assert (error.status, error.param) == (400, field)
    assert "stateless" in error.message


def test_an_item_of_an_earlier_response_is_refused() -> None:
    item = {"type": "item_reference", "id": "msg_1"}
    error = refused("/v1/responses", {"model": "nano", "input": [item]})
    assert error.param == "input[0]"
    assert "stateless" in error.message


def test_a_file_that_was_uploaded_elsewhere_is_refused_by_name() -> None:
    picture = {"type": "input_image", "file_id": "file-1", "detail": "auto"}
    message = {"role": "user", "content": [picture]}
    error = refused("/v1/responses", {"model": "nano", "input": [message]})
    assert error.param == "input[0].content[0]"
    assert error.message.endswith(" has a file_id, and files are not kept; send it as image_url.")


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/responses", {"text": {"format": {"type": "xml"}}}, "text.format"),
        ("/v1/responses", {"temperature": 3}, "temperature"),
        ("/v1/responses", {"max_output_tokens": 0}, "max_output_tokens"),
        ("/v1/responses", {"tools": [{"type": "web_search"}]}, "tools[0]"),
        ("/v1/responses", {"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ("/v1/responses", {"include": ["everything"]}, "include"),
        ("/v1/responses", {"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ("/v1/responses", {"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ("/v1/responses", {"input": []}, "input"),
        ("/v1/responses", {"top_logprobs": 21}, "top_logprobs"),
        ("/v1/messages", {"max_tokens": 0}, "max_tokens"),
        ("/v1/messages", {"temperature": 2.5}, "temperature"),
        ("/v1/messages", {"messages": []}, "messages"),
        ("/v1/messages", {"stop_sequences": [""]}, "stop_sequences[0]"),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking.type"),
        ("/v1/messages", {"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ("/v1/messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ("/v1/messages", {"container": "c"}, "container"),
        ("/api/chat", {"options": {"temperature": -1}}, "options.temperature"),
        ("/api/chat", {"options": {"num_predict": 0}}, "options.num_predict"),
        ("/api/chat", {"options": {"num_predict": -3}}, "options.num_predict"),
        ("/api/chat", {"options": {"mirostat": 2}}, "options.mirostat"),
        ("/api/chat", {"options": {"stop": [""]}}, "options.stop[0]"),
        ("/api/chat", {"format": "xml"}, "format"),
        ("/api/chat", {"think": True}, "think"),
        ("/api/chat", {"think": "high"}, "think"),
        ("/api/chat", {"top_logprobs": 3}, "top_logprobs"),
        ("/api/generate", {"images": ["file:///etc/hostname"]}, "images[0]"),
        ("/api/generate", {"suffix": "x"}, "suffix"),
        ("/api/generate", {"context": [1]}, "context"),
        ("/api/chat", {"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ("/api/chat", {"options": {"typical_p": 0.5}}, "options.typical_p"),
        ("/v1/responses", {"truncation": "auto"}, "truncation"),
        ("/v1/responses", {"text": {"verbosity": "high"}}, "text.verbosity"),
        ("/v1/messages", {"output_config": {"effort": "high"}}, "output_config.effort"),
        ("/v1/messages", {"speed": "fast"}, "speed"),
    ],
)  # fmt: skip
def test_errors_name_the_clients_own_field(path: str, change: dict[str, Any], param: str) -> None:
    _, body = next(recorded(path))
    error = refused(path, body | change)
    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(param)


@pytest.mark.parametrize("wrong", [3, True])
@pytest.mark.parametrize(
    ("path", "change", "expected"),
    [
        ("/v1/responses", lambda it: {"input": it}, "a list"),
        ("/v1/responses", lambda it: {"input": [{"role": "user", "content": it}]}, "a list"),
        ("/v1/messages", lambda it: {"system": it}, "a list"),
        ("/v1/messages", lambda it: {"messages": [{"role": "user", "content": it}]}, "a list"),
        ("/api/chat", lambda it: {"format": it}, "an object"),
    ],
)
def test_where_two_kinds_are_read_both_are_named(
    path: str, change: Any, expected: str, wrong: Any
) -> None:
    _, body = next(recorded(path))
    error = refused(path, body | change(wrong))
    assert error.message.endswith(f"; expected a string or {expected}.")


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        ("/v1/responses", {"store": True}, "store"),
        ("/v1/responses", {"reasoning": {"effort": "high"}}, "reasoning"),
        ("/v1/messages", {"thinking": {"type": "adaptive"}}, "thinking"),
        ("/api/chat", {"think": True, "options": {"mirostat": 1}}, "think"),
    ],
)
def test_fields_without_effect_can_be_let_pass(
    path: str, change: dict[str, Any], field: str
) -> None:
    model, convert = ALL[path]
    _, body = next(recorded(path))
    ignored: list[str] = []
    convert(validate(model, body | change), ignored.append)  # type: ignore[operator]
    assert ignored[0] == field


def test_an_address_is_no_picture_of_ollamas() -> None:
    message = {"role": "user", "content": "Hi", "images": ["http://example.com/a.png"]}
    error = refused("/api/chat", {"model": "nano", "messages": [message]})
    assert error.param == "messages[0].images[0]"


def test_turns_of_one_role_are_one_and_results_stand_before_the_text() -> None:
    chat = chat_of("/v1/messages", request_of("/v1/messages", "turns"))
    user, assistant, result, last = chat["messages"]
    assert user["content"] == [{"type": "text", "text": "Weather?"}]
    assert assistant["content"] == [{"type": "text", "text": "I look."}]
    assert assistant["tool_calls"][0]["function"]["arguments"] == '{"city": "Bonn"}'
    assert (result["role"], result["tool_call_id"]) == ("tool", "toolu_1")
    assert last["content"] == [{"type": "text", "text": "And?"}]
    twice = {"role": "user", "content": "a"}
    body = {"model": "nano", "max_tokens": 5, "messages": [twice, twice]}
    (turn,) = chat_of("/v1/messages", body)["messages"]
    assert [part["text"] for part in turn["content"]] == ["a", "a"]


def test_the_fields_of_anthropic() -> None:
    body = request_of("/v1/messages", "picture")
    chat = chat_of("/v1/messages", body)
    data = body["messages"][0]["content"][0]["source"]["data"]
    assert chat["messages"][0] == {"role": "system", "content": "Be short."}
    assert chat["messages"][1]["content"][0]["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert (chat["stop"], chat["max_tokens"], chat["temperature"]) == (["."], 20, 0)
    chat = chat_of("/v1/messages", request_of("/v1/messages", "tools"))
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == ("required", False)
    schema = chat_of("/v1/messages", request_of("/v1/messages", "parse"))["response_format"]
    assert schema["json_schema"]["schema"]["required"] == ["color", "count"]


def test_the_fields_of_ollama() -> None:
    body = request_of("/api/chat", "picture")
    chat = chat_of("/api/chat", body)
    data = body["messages"][1]["images"][0]
    parts = chat["messages"][1]["content"]
    assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert parts[1] == {"type": "text", "text": "What is it?"}
    own = {key: chat[key] for key in ("temperature", "seed", "max_tokens", "stop", "top_k")}
    assert own == {"temperature": 0, "seed": 1, "max_tokens": 20, "stop": ["."], "top_k": 5}
    assert chat["stream"] is False
    body["options"]["num_predict"] = -1
    del body["stream"]
    chat = chat_of("/api/chat", body)
    assert "max_tokens" not in chat
    assert chat["stream"] is True
    chat = chat_of("/api/generate", request_of("/api/generate", "generate"))
    assert chat["response_format"] == {"type": "json_object"}
    assert chat["repetition_penalty"] == 1.1
    assert [message["role"] for message in chat["messages"]] == ["system", "user"]


def test_a_prompt_of_ollamas_is_no_message() -> None:
    _, names = converted("/api/generate", {"model": "nano", "system": "Be kind.", "prompt": "Hi"})
    own = [names.own(field) for field in ("messages", "messages[0].content", "messages[1]")]
    assert own == ["prompt", "system", "prompt"]


def test_results_of_ollama_belong_to_the_calls_before_them() -> None:
    chat = chat_of("/api/chat", request_of("/api/chat", "tools"))
    _, assistant, result = chat["messages"]
    assert result["tool_call_id"] == assistant["tool_calls"][0]["id"]


def test_names_of_ollamas_models_have_a_tag() -> None:
    assert tagged("nano") == "nano:latest"
    assert tagged("host:80/nano") == "host:80/nano:latest"
    assert tagged("nano:4b") == "nano:4b"
    assert model_name("nano:latest", ["nano"]) == "nano"
    assert model_name("nano:latest", ["nano:latest"]) == "nano:latest"
    assert model_name("other:latest", ["nano"]) == "other:latest"


def test_names_of_fields_are_put_into_the_message() -> None:
    names = Names({"stop": "stop_sequences"})
    names.add("messages[1]", "input[0]")
    names.add("messages[1].content[0].image_url", "input[0].content[0].image_url", is_whole=True)
    assert names.own("messages[1].content[0].image_url.url") == "input[0].content[0].image_url"
    assert names.own("messages[1].content[0].text") == "input[0].content[0].text"
    assert names.own("messages[10]") == "messages[10]"
    error = names.error(ApiError(400, "invalid_value", "stop has 17, a stop is.", param="stop"))
    assert error.message == "stop_sequences has 17, a stop is."
