"""litellm, langchain-openai, llama-index-llms-openai-like and instructor."""

from importlib.metadata import version
from typing import Literal

import instructor
import litellm
import openai
from cases import (
    BASE,
    COLOURS,
    KEY,
    MODEL,
    PICTURE_BASE64,
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
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL = f"{BASE}/v1"
LOOK = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": PICTURE_URL}},
            {"type": "text", "text": QUESTION},
        ],
    }
]
HELLO = [{"role": "user", "content": "Hello"}]
LITELLM = f"litellm {version('litellm')}"
LANGCHAIN = f"langchain-openai {version('langchain-openai')}"
LLAMA_INDEX = f"llama-index openai-like {version('llama-index-llms-openai-like')}"
INSTRUCTOR = f"instructor {version('instructor')}"


class Seen(BaseModel):
    """The colour of the star."""

    colour: Literal["red", "purple", "green"]


# litellm


def lite(model: str = f"openai/{MODEL}", **options: object) -> object:
    options = {"messages": LOOK, "api_base": URL, "api_key": KEY, "num_retries": 0} | options
    return litellm.completion(model=model, **options)


@case(LITELLM, "plain")
def litellm_plain() -> None:
    answer = lite(messages=HELLO, max_tokens=20)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens


@case(LITELLM, "stream")
def litellm_stream() -> None:
    chunks = list(lite(stream=True, stream_options={"include_usage": True}))
    is_colour("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
    expect(chunks[-1].usage.completion_tokens, lite().usage.completion_tokens)


@case(LITELLM, "picture")
def litellm_picture() -> None:
    is_colour(lite().choices[0].message.content)
    is_colour(lite(f"hosted_vllm/{MODEL}").choices[0].message.content)
    ollama = lite(f"ollama_chat/{MODEL}", api_base=BASE)
    is_colour(ollama.choices[0].message.content)
    claude = lite(f"anthropic/{MODEL}", api_base=BASE, max_tokens=20)
    is_colour(claude.choices[0].message.content)
    answer = litellm.responses(
        model=f"openai/{MODEL}", input="Hello", api_base=URL, api_key=KEY, store=False
    )
    assert answer.output[0].content[0].text


@case(LITELLM, "structured")
def litellm_structured() -> None:
    answer = lite(response_format=Seen)
    assert Seen.model_validate_json(answer.choices[0].message.content).colour in COLOURS


@case(LITELLM, "tools")
def litellm_tools() -> None:
    answer = lite(tools=[TOOL], tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls
    is_tool_call(call.function.name, call.function.arguments)


@case(LITELLM, "bad parameter")
def litellm_bad() -> None:
    refused(litellm.BadRequestError, "temperature", lambda: lite(temperature=9))


# langchain-openai


def lang(**options: object) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_retries=0, **options)


BLOCKS = [
    HumanMessage(
        content=[
            {"type": "image", "base64": PICTURE_BASE64, "mime_type": "image/png"},
            {"type": "text", "text": QUESTION},
        ]
    )
]


@case(LANGCHAIN, "plain")
def langchain_plain() -> None:
    answer = lang(max_tokens=20).invoke("Hello")
    assert answer.content
    assert answer.usage_metadata["input_tokens"]


@case(LANGCHAIN, "stream")
def langchain_stream() -> None:
    chunks = list(lang(stream_usage=True).stream(BLOCKS))
    is_colour("".join(chunk.content for chunk in chunks))
    assert any(chunk.usage_metadata for chunk in chunks)


@case(LANGCHAIN, "picture")
def langchain_picture() -> None:
    is_colour(lang().invoke(BLOCKS).content)
    answer = lang(use_responses_api=True).invoke(BLOCKS)
    is_colour(answer.text)


@case(LANGCHAIN, "structured")
def langchain_structured() -> None:
    assert lang().with_structured_output(Seen).invoke(BLOCKS).colour in COLOURS
    by_function = lang().with_structured_output(Seen, method="function_calling")
    assert by_function.invoke(BLOCKS).colour in COLOURS


@case(LANGCHAIN, "tools")
def langchain_tools() -> None:
    answer = lang().bind_tools([TOOL], tool_choice="tell").invoke(BLOCKS)
    (call,) = answer.tool_calls
    is_tool_call(call["name"], call["args"])


@case(LANGCHAIN, "bad parameter")
def langchain_bad() -> None:
    refused(openai.BadRequestError, "top_p", lambda: lang(top_p=3).invoke("Hello"))


# llama-index


def llama(**options: object) -> OpenAILike:
    options = {"is_chat_model": True, "max_retries": 0} | options
    return OpenAILike(model=MODEL, api_base=URL, api_key=KEY, **options)


SEE = [
    ChatMessage(
        role="user",
        blocks=[
            ImageBlock(image=PICTURE_BASE64.encode(), image_mimetype="image/png"),
            TextBlock(text=QUESTION),
        ],
    )
]


@case(LLAMA_INDEX, "plain")
def llama_plain() -> None:
    assert llama().complete("Hello").text


@case(LLAMA_INDEX, "stream")
def llama_stream() -> None:
    is_colour("".join(piece.delta or "" for piece in llama(temperature=0).stream_chat(SEE)))


@case(LLAMA_INDEX, "picture")
def llama_picture() -> None:
    is_colour(llama(temperature=0).chat(SEE).message.content)


@case(LLAMA_INDEX, "structured")
def llama_structured() -> None:
    for options in (
        {"is_function_calling_model": True},
        {"should_use_structured_outputs": True},
    ):
        model = llama(temperature=0, **options).as_structured_llm(Seen)
        assert model.chat(SEE).raw.colour in COLOURS


@case(LLAMA_INDEX, "tools")
def llama_tools() -> None:
    def tell(colour: Literal["red", "purple", "green"]) -> str:
        """Tell the colour."""
        return colour

    model = llama(temperature=0, is_function_calling_model=True)
    answer = model.chat_with_tools(
        [FunctionTool.from_defaults(tell)], chat_history=SEE, tool_required=True
    )
    (call,) = model.get_tool_calls_from_response(answer)
    is_tool_call(call.tool_name, call.tool_kwargs)


@case(LLAMA_INDEX, "bad parameter")
def llama_bad() -> None:
    ask = llama(additional_kwargs={"top_p": 3}).complete
    refused(openai.BadRequestError, "top_p", lambda: ask("Hello"))


# instructor


def instruct(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY), mode=mode)


@case(INSTRUCTOR, "structured")
def instructor_structured() -> None:
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        seen = instruct(mode).chat.completions.create(
            model=MODEL, messages=LOOK, response_model=Seen, max_retries=0
        )
        assert seen.colour in COLOURS


@case(INSTRUCTOR, "stream")
def instructor_stream() -> None:
    create = instruct(instructor.Mode.TOOLS).chat.completions.create_partial
    *_, last = create(model=MODEL, messages=LOOK, response_model=Seen, max_retries=0)
    assert last.colour in COLOURS


@case(INSTRUCTOR, "bad parameter")
def instructor_bad() -> None:
    create = instruct(instructor.Mode.TOOLS).chat.completions.create
    refused(
        Exception,
        "temperature",
        lambda: create(
            model=MODEL, messages=LOOK, response_model=Seen, max_retries=0, temperature=9
        ),
    )


run_cases()
