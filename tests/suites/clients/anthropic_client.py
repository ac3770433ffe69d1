"""anthropic (Python): messages."""

from typing import Literal

import anthropic
from cases import (
    BASE,
    COLOURS,
    KEY,
    MODEL,
    PARAMETERS,
    PICTURE_BASE64,
    QUESTION,
    case,
    expect,
    is_colour,
    is_tool_call,
    refused,
    run_cases,
)
from pydantic import BaseModel

NAME = f"anthropic {anthropic.__version__}"
messages = anthropic.Anthropic(base_url=BASE, api_key=KEY).messages
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE_BASE64}
LOOK = [
    {
        "role": "user",
        "content": [{"type": "image", "source": SOURCE}, {"type": "text", "text": QUESTION}],
    }
]
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "tell", "description": "Tell the colour.", "input_schema": PARAMETERS}


class Seen(BaseModel):
    colour: Literal["red", "purple", "green"]


@case(NAME, "plain")
def plain() -> None:
    answer = messages.create(
        model=MODEL,
        max_tokens=64,
        messages=HELLO,
        system="Be kind.",
        extra_body={"temperature": 0},
    )
    assert answer.content[0].text
    expect((answer.stop_reason, answer.role), ("end_turn", "assistant"))
    word = answer.content[0].text[-3:-1]
    stopped = messages.create(
        model=MODEL, max_tokens=64, messages=HELLO, system="Be kind.", stop_sequences=[word]
    )
    expect((stopped.stop_reason, stopped.stop_sequence), ("stop_sequence", word))
    cut = messages.create(model=MODEL, max_tokens=1, messages=HELLO)
    expect(cut.stop_reason, "max_tokens")


@case(NAME, "stream")
def stream() -> None:
    whole = messages.create(model=MODEL, max_tokens=64, messages=LOOK)
    with messages.stream(model=MODEL, max_tokens=64, messages=LOOK) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    expect(text, whole.content[0].text)
    expect(final.usage.output_tokens, whole.usage.output_tokens)
    raw = list(messages.create(model=MODEL, max_tokens=64, messages=LOOK, stream=True))
    expect((raw[0].type, raw[-1].type), ("message_start", "message_stop"))


@case(NAME, "picture")
def picture() -> None:
    answer = messages.create(
        model=MODEL, max_tokens=64, messages=LOOK, thinking={"type": "disabled"}
    )
    is_colour(answer.content[0].text)


@case(NAME, "structured")
def structured() -> None:
    answer = messages.parse(model=MODEL, max_tokens=64, messages=LOOK, output_format=Seen)
    assert answer.parsed_output.colour in COLOURS


@case(NAME, "tools")
def tools() -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "tell"}):
        answer = messages.create(
            model=MODEL, max_tokens=64, messages=LOOK, tools=[TOOL], tool_choice=choice
        )
        expect(answer.stop_reason, "tool_use")
        (call,) = answer.content
        is_tool_call(call.name, call.input)
        with messages.stream(
            model=MODEL, max_tokens=64, messages=LOOK, tools=[TOOL], tool_choice=choice
        ) as events:
            (same,) = events.get_final_message().content
        expect(same.input, call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is purple."}
    last = messages.create(
        model=MODEL,
        max_tokens=64,
        messages=[
            *LOOK,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]},
        ],
        tools=[TOOL],
        tool_choice={"type": "none"},
    )
    assert last.content[0].text


@case(NAME, "count_tokens")
def count() -> None:
    counted = messages.count_tokens(model=MODEL, messages=LOOK, system="Be short.")
    asked = messages.create(model=MODEL, max_tokens=1, messages=LOOK, system="Be short.").usage
    expect(counted.input_tokens, asked.input_tokens + (asked.cache_read_input_tokens or 0))


@case(NAME, "models")
def models() -> None:
    client = anthropic.Anthropic(base_url=BASE, api_key=KEY)
    expect([model.id for model in client.models.list()], [MODEL])
    expect(client.models.retrieve(MODEL).type, "model")


@case(NAME, "bad parameter")
def bad_parameter() -> None:
    wrong = anthropic.BadRequestError
    refused(
        wrong,
        "temperature",
        lambda: messages.create(
            model=MODEL, max_tokens=1, messages=HELLO, extra_body={"temperature": 9}
        ),
    )
    refused(
        wrong,
        "thinking",
        lambda: messages.create(
            model=MODEL,
            max_tokens=2000,
            messages=HELLO,
            thinking={"type": "enabled", "budget_tokens": 1024},
        ),
    )
    refused(
        anthropic.NotFoundError,
        "other",
        lambda: messages.create(model="other", max_tokens=1, messages=HELLO),
    )


run_cases()
