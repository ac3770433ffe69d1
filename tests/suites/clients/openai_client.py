"""openai (Python): chat completions and responses."""

import json
from typing import Literal

import openai
from cases import (
    BASE,
    COLOURS,
    KEY,
    MODEL,
    PICTURE_URL,
    QUESTION,
    TOOL,
    case,
    expect,
    is_colour,
    is_tool_call,
    refused,
    run_cases,
)
from pydantic import BaseModel

CHAT, RESPONSES = f"openai {openai.__version__} chat", f"openai {openai.__version__} responses"
client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY)
LOOK = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": PICTURE_URL}},
            {"type": "text", "text": QUESTION},
        ],
    }
]
INPUT = [
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": PICTURE_URL, "detail": "auto"},
            {"type": "input_text", "text": QUESTION},
        ],
    }
]
FLAT_TOOL = {"type": "function", "strict": True, **TOOL["function"]}
HELLO = [{"role": "user", "content": "Hello"}]


class Seen(BaseModel):
    colour: Literal["red", "purple", "green"]


@case(CHAT, "plain")
def plain() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content
    expect(answer.choices[0].finish_reason, "stop")
    usage = answer.usage
    assert usage is not None
    expect(usage.prompt_tokens + usage.completion_tokens, usage.total_tokens)


@case(CHAT, "stream")
def stream() -> None:
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=LOOK, stream=True, stream_options=options
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    is_colour(text)
    assert chunks[-1].usage is not None
    with client.chat.completions.stream(model=MODEL, messages=LOOK) as events:
        for _ in events:
            pass
        expect(events.get_final_completion().choices[0].message.content, text)


@case(CHAT, "picture")
def picture() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=LOOK, logprobs=True)
    is_colour(answer.choices[0].message.content or "")
    tokens = answer.choices[0].logprobs.content
    expect("".join(each.token for each in tokens).strip(), answer.choices[0].message.content)


@case(CHAT, "structured")
def structured() -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=LOOK, response_format=Seen)
    assert answer.choices[0].message.parsed.colour in COLOURS
    form = {"type": "json_object"}
    answer = client.chat.completions.create(
        model=MODEL, messages=LOOK, response_format=form, max_tokens=64
    )
    if answer.choices[0].finish_reason == "stop":
        json.loads(answer.choices[0].message.content)


@case(CHAT, "tools")
def tools() -> None:
    named = {"type": "function", "function": {"name": "tell"}}
    for choice in ("required", named):
        answer = client.chat.completions.create(
            model=MODEL, messages=LOOK, tools=[TOOL], tool_choice=choice
        )
        (call,) = answer.choices[0].message.tool_calls
        is_tool_call(call.function.name, call.function.arguments)
        with client.chat.completions.stream(
            model=MODEL, messages=LOOK, tools=[TOOL], tool_choice=choice
        ) as events:
            for _ in events:
                pass
            (same,) = events.get_final_completion().choices[0].message.tool_calls
        expect(same.function.arguments, call.function.arguments)


@case(CHAT, "bad parameter")
def bad_parameter() -> None:
    create = client.chat.completions.create
    refused(
        openai.BadRequestError,
        "temperature",
        lambda: create(model=MODEL, messages=HELLO, temperature=9),
    )
    refused(
        openai.BadRequestError,
        "shoes",
        lambda: create(model=MODEL, messages=HELLO, extra_body={"shoes": 2}),
    )
    refused(openai.NotFoundError, "other", lambda: create(model="other", messages=HELLO))


@case(CHAT, "models")
def models() -> None:
    expect([model.id for model in client.models.list()], [MODEL])
    expect(client.models.retrieve(MODEL).id, MODEL)


@case(RESPONSES, "plain")
def plain_response() -> None:
    answer = client.responses.create(model=MODEL, input="Hello", store=False)
    assert answer.output_text
    expect(answer.status, "completed")
    expect(answer.usage.input_tokens + answer.usage.output_tokens, answer.usage.total_tokens)
    again = client.responses.create(
        model=MODEL,
        input=[*HELLO, *answer.output, {"role": "user", "content": "Hello again"}],
    )
    assert again.output_text


@case(RESPONSES, "stream")
def stream_response() -> None:
    whole = client.responses.create(model=MODEL, input=INPUT).output_text
    with client.responses.stream(model=MODEL, input=INPUT) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    expect(final.output_text, whole)
    expect(kinds[:2], ["response.created", "response.in_progress"])
    raw = list(client.responses.create(model=MODEL, input=INPUT, stream=True))
    expect([event.sequence_number for event in raw], list(range(len(raw))))
    deltas = [event.delta for event in raw if event.type == "response.output_text.delta"]
    expect("".join(deltas), whole)


@case(RESPONSES, "picture")
def picture_response() -> None:
    answer = client.responses.create(
        model=MODEL,
        input=INPUT,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    is_colour(answer.output_text)
    tokens = answer.output[0].content[0].logprobs
    expect("".join(each.token for each in tokens).strip(), answer.output_text)


@case(RESPONSES, "incomplete")
def incomplete_response() -> None:
    answer = client.responses.create(model=MODEL, input="Hello", max_output_tokens=1)
    expect((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))


@case(RESPONSES, "structured")
def structured_response() -> None:
    answer = client.responses.parse(model=MODEL, input=INPUT, text_format=Seen)
    assert answer.output_parsed.colour in COLOURS
    with client.responses.stream(model=MODEL, input=INPUT, text_format=Seen) as events:
        for _ in events:
            pass
        assert events.get_final_response().output_parsed.colour in COLOURS


@case(RESPONSES, "tools")
def tools_response() -> None:
    for choice in ("required", {"type": "function", "name": "tell"}):
        answer = client.responses.create(
            model=MODEL, input=INPUT, tools=[FLAT_TOOL], tool_choice=choice
        )
        (call,) = answer.output
        is_tool_call(call.name, call.arguments)
        with client.responses.stream(
            model=MODEL, input=INPUT, tools=[FLAT_TOOL], tool_choice=choice
        ) as events:
            for _ in events:
                pass
            (same,) = events.get_final_response().output
        expect(same.arguments, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It is purple."}
    last = client.responses.create(
        model=MODEL, input=[*INPUT, call.to_dict(), result], tools=[FLAT_TOOL], tool_choice="none"
    )
    assert last.output_text


@case(RESPONSES, "bad parameter")
def bad_response() -> None:
    create = client.responses.create
    wrong = openai.BadRequestError
    refused(wrong, "stateless", lambda: create(model=MODEL, input="a", store=True))
    refused(
        wrong, "stateless", lambda: create(model=MODEL, input="a", previous_response_id="resp_1")
    )
    refused(wrong, "top_p", lambda: create(model=MODEL, input="a", top_p=2))
    refused(wrong, "max_output_tokens", lambda: create(model=MODEL, input="a", max_output_tokens=0))


run_cases()
