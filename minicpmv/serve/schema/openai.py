"""`/v1/chat/completions` as OpenAI's clients write it, with the extensions of vLLM that we honour.

Ranges stand here, so that they are in the OpenAPI document; what fields mean together is in
`serve/parameters.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from .base import Body
from .kinds import kind_of
from .parts import ChatMessage, text_or, text_or_list, text_or_object

MAX_ANSWERS = 16
MAX_STOPS = 16
MAX_STOP_LENGTH = 64
MAX_STOP_IDS = 128
MAX_BIASES = 1024
MAX_LOGPROBS = 20
MAX_TOOLS = 128

_MAX_MESSAGES = 4096
_WHOLE = 2**63 - 1

Whole = Annotated[int, Field(ge=1, le=_WHOLE)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = Annotated[
    Annotated[StopText, Tag("<string>")]
    | Annotated[list[StopText], Field(max_length=MAX_STOPS), Tag("<list>")],
    Discriminator(text_or("<list>")),
    text_or_list(),
]


class StreamOptions(Body):
    """What a stream tells besides the text.

    Fields:
        continuous_usage_stats: whether each chunk tells the usage of its answer so far, as vLLM
            does; with `include_usage` alone.
    """

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="True has no effect: refused.")
    continuous_usage_stats: bool | None = None


class MediaSettings(Body):
    """How pictures and videos are shown, as vLLM names it.

    Fields:
        max_slice_nums: cells that a picture or frame is cut into at most; it wins over `detail`.
        use_image_id: whether pictures are numbered in the prompt.
        fps, num_frames: which frames of a video are shown; one of them.
    """

    max_slice_nums: Annotated[int, Field(ge=1, le=1024)] | None = None
    use_image_id: bool | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    num_frames: Whole | None = None


class VideoIo(Body):
    """How videos are read."""

    num_frames: Whole | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None


class MediaIo(Body):
    """How media are read, as vLLM names it."""

    video: VideoIo | None = None
    image: dict[str, Any] | None = Field(None, description="Only {} is accepted.")


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of its arguments.")
    strict: bool | None = None


class Tool(Body):
    """A function, as a tool."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Body):
    """The functions of `tools` that may be called this time, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolChoice(Body):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _choice(value: Any) -> str:
    return "<string>" if isinstance(value, str) else kind_of()(value)


CHOICES = Discriminator(
    _choice,
    custom_error_type="invalid_value",
    custom_error_message="none, auto, required, or an object of type function or allowed_tools",
)
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<string>")]
    | Annotated[NamedTool, Tag("<function>")]
    | Annotated[AllowedToolChoice, Tag("<allowed_tools>")],
    CHOICES,
]


class JsonSchema(Body):
    """The schema that an answer is valid under."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    """What the answer must match, as vLLM names it: one of these."""

    json_: (
        Annotated[
            Annotated[str, Tag("<string>")] | Annotated[dict[str, Any], Tag("<object>")],
            Discriminator(text_or("<object>")),
            text_or_object(),
        ]
        | None
    ) = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Sampling(Body):
    """Fields that several routes share: how the tokens of an answer are chosen."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_WHOLE)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=_WHOLE)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = Field(
        None, description="Only the same as n is accepted."
    )
    stop: Stop | None = None
    stop_token_ids: (
        Annotated[list[Annotated[int, Field(ge=0, le=_WHOLE)]], Field(max_length=MAX_STOP_IDS)]
        | None
    ) = None
    ignore_eos: bool | None = None
    max_tokens: Whole | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_WHOLE)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASES)]
        | None
    ) = None
    num_beams: Annotated[int, Field(ge=1, le=64)] | None = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    early_stopping: bool | None = None


class ChatRequest(Sampling):
    """A conversation to be answered."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    return_tokens_as_token_ids: bool | None = Field(
        None, description="Whether tokens of logprobs are named token_id:7, as vLLM does."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    mm_processor_kwargs: MediaSettings | None = None
    media_io_kwargs: MediaIo | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Only what the template would do anyway: {enable_thinking: false}."
    )

    # Accepted without effect, where the value asks for nothing that is not done anyway.
    user: str | None = Field(None, description="Without effect.")
    metadata: dict[str, Any] | None = Field(None, description="Without effect.")
    store: bool | None = Field(None, description="Only false: nothing is stored.")
    service_tier: str | None = Field(None, description="Only auto or default.")
    prompt_cache_key: str | None = Field(None, description="Without effect.")
    prompt_cache_options: dict[str, Any] | None = Field(None, description="Without effect.")
    prompt_cache_retention: str | None = Field(None, description="Without effect.")
    safety_identifier: str | None = Field(None, description="Without effect.")
    verbosity: str | None = Field(None, description="Only medium.")
    cache_salt: str | None = Field(None, description="Without effect.")
    reasoning_effort: str | None = Field(None, description="Only none.")
    modalities: list[str] | None = Field(None, description="Only text.")
    add_generation_prompt: bool | None = Field(None, description="Only true.")
    continue_final_message: bool | None = Field(None, description="Only false.")
    add_special_tokens: bool | None = Field(None, description="Only false.")
    skip_special_tokens: bool | None = Field(None, description="Only true.")
    spaces_between_special_tokens: bool | None = Field(None, description="Only true.")
    include_stop_str_in_output: bool | None = Field(None, description="Only false.")
    echo: bool | None = Field(None, description="Only false.")
