"""Bodies of Ollama's `/api/chat`, `/api/generate` and `/api/show`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .base import Body
from .openai import MAX_LOGPROBS, Stop
from .parts import text_or, text_or_object


class Function(Body):
    """The name of a tool, and what it was called with."""

    name: str
    arguments: dict[str, Any]
    index: int | None = None


class ToolCall(Body):
    """A call that the model made in an earlier turn."""

    function: Function
    id: str | None = None
    type: Literal["function"] | None = None


class Message(Body):
    """A turn of the conversation.

    Fields:
        images: each in base64, shown before the text.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    thinking: str | None = Field(None, description="Without effect.")
    tool_call_id: str | None = None


class FunctionDefinition(Body):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"] | None = None
    function: FunctionDefinition


class Options(Body):
    """How the answer is generated.

    Fields:
        temperature: 0 for the likeliest answer.
        num_predict: most tokens of the answer; -1 and -2: as many as the context holds.
        repeat_last_n: -1, all tokens count as repeated, or 0, none does; others have no effect.

    What tells Ollama how to load a model is accepted without effect: `num_ctx`, `num_batch`,
    `num_gpu`, `main_gpu`, `num_thread`, `num_keep`, `numa`, `low_vram`, `f16_kv`, `use_mmap`,
    `use_mlock`. So are `tfs_z`, `typical_p` and `mirostat` where they are off.
    """

    temperature: float | None = None
    seed: int | None = None
    num_predict: int | None = None
    stop: Stop | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    num_keep: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    tfs_z: float | None = Field(None, description="Only 1.")
    typical_p: float | None = Field(None, description="Only 1.")
    mirostat: int | None = Field(None, description="Only 0.")


Format = Annotated[
    Annotated[Literal["", "json"], Tag("<string>")] | Annotated[dict[str, Any], Tag("<schema>")],
    Discriminator(text_or("<schema>")),
    text_or_object(),
]


class GenerationRequest(Body):
    """What both ways of asking have in common.

    Fields:
        stream: true where it is absent.
        format: "json", or a schema that the answer keeps to.
        keep_alive: has no effect: models stay as long as there is memory.
        think: these models do not think; false is what they do.
    """

    model: str
    stream: bool | None = None
    format: Format | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: Annotated[bool | str, Field(union_mode="left_to_right")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


class ChatRequest(GenerationRequest):
    """A request to `/api/chat`."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class GenerateRequest(GenerationRequest):
    """A request to `/api/generate`.

    Fields:
        raw: the prompt is the text that the model goes on with, without a template.
    """

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    suffix: str | None = Field(None, description="Only empty.")
    template: str | None = Field(None, description="Only empty.")
    context: list[int] | None = Field(None, description="Only empty.")


class ShowRequest(Body):
    """A request to `/api/show`; older clients write `name` for the model."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
