"""ollama (Python)."""

import json
from importlib.metadata import version

import ollama
from cases import (
    BASE,
    COLOURS,
    MODEL,
    PARAMETERS,
    PICTURE,
    QUESTION,
    TOOL,
    case,
    expect,
    is_colour,
    refused,
    run_cases,
)

NAME = f"ollama {version('ollama')}"
client = ollama.Client(host=BASE)
LOOK = [{"role": "user", "content": QUESTION, "images": [PICTURE.read_bytes()]}]
HELLO = [{"role": "user", "content": "Hello"}]


@case(NAME, "plain")
def plain() -> None:
    answer = client.chat(MODEL, HELLO, options={"temperature": 0, "num_ctx": 2048}, think=False)
    assert answer.message.content
    expect((answer.message.role, answer.done, answer.done_reason), ("assistant", True, "stop"))
    assert answer.prompt_eval_count
    assert answer.eval_count
    cut = client.chat(f"{MODEL}:latest", HELLO, options={"num_predict": 1})
    expect((cut.done_reason, cut.model), ("length", f"{MODEL}:latest"))
    text = client.generate(MODEL, "Hello", system="Be short.", keep_alive="5m").response
    assert text
    expect(client.generate(MODEL).done_reason, "load")


@case(NAME, "stream")
def stream() -> None:
    whole = client.chat(MODEL, LOOK).message.content
    lines = list(client.chat(MODEL, LOOK, stream=True, logprobs=True, top_logprobs=2))
    expect("".join(line.message.content or "" for line in lines), whole)
    expect([line.done for line in lines], [False] * (len(lines) - 1) + [True])
    assert lines[0].logprobs[0].top_logprobs
    images = [PICTURE.read_bytes()]
    pieces = list(client.generate(MODEL, QUESTION, images=images, stream=True))
    expect("".join(piece.response for piece in pieces), whole)


@case(NAME, "picture")
def picture() -> None:
    is_colour(client.chat(MODEL, LOOK).message.content)
    is_colour(client.generate(MODEL, QUESTION, images=[str(PICTURE)]).response)


@case(NAME, "structured")
def structured() -> None:
    answer = client.chat(MODEL, LOOK, format=PARAMETERS)
    assert json.loads(answer.message.content)["colour"] in COLOURS
    answer = client.chat(MODEL, LOOK, format="json", options={"num_predict": 64})
    if answer.done_reason == "stop":
        json.loads(answer.message.content)


@case(NAME, "tools")
def tools() -> None:
    ask = client.chat
    refused(ollama.ResponseError, "tool", lambda: ask(MODEL, LOOK, tools=[TOOL]))


@case(NAME, "models")
def models() -> None:
    expect([model.model for model in client.list().models], [f"{MODEL}:latest"])
    assert "vision" in (client.show(MODEL).capabilities or [])
    expect([model.model for model in client.ps().models], [f"{MODEL}:latest"])


@case(NAME, "bad parameter")
def bad_parameter() -> None:
    wrong = ollama.ResponseError
    chat = client.chat
    refused(wrong, "options.top_p", lambda: chat(MODEL, HELLO, options={"top_p": 3}))
    refused(wrong, "options.shoes", lambda: chat(MODEL, HELLO, options={"shoes": 3}))
    refused(wrong, "other", lambda: chat("other", HELLO))
    refused(wrong, "think", lambda: chat(MODEL, HELLO, think=True))
    refused(wrong, "embed", lambda: client.embed(MODEL, "Hello"))


run_cases()
