"""Bodies of `/v1/responses`: one stateless turn of text and pictures, as OpenAI's clients send it.

Fields that would need a memory of earlier requests are named here to be refused with that reason.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from .base import Body
from .kinds import kind_of, known_kinds
from .openai import CHOICES, MAX_LOGPROBS, MediaIo, MediaSettings, Stop, Whole
from .parts import Detail, Uuid, text_or, text_or_list, text_or_object

_NO_FILES = "send pictures as input_image, with a data: URL"
_NO_SOUND = "sound is not supported; send text, pictures and videos"


class InputText(Body):
    """Text of a message; clients write what the assistant said as `output_text`."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class Refusal(Body):
    """What an earlier answer refused, as text."""

    type: Literal["refusal"]
    refusal: str


class InputImage(Body):
    """A picture: a data URL, or an address that the server may open."""

    type: Literal["input_image"]
    image_url: str
    detail: Detail | None = None
    uuid: Uuid | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_files(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("file_id") is not None:
            raise ValueError("it has a file_id, and files are not kept; send it as image_url")
        return value


class InputVideo(Body):
    """A video: a data URL, or an address that the server may open."""

    type: Literal["input_video"]
    video_url: str
    uuid: Uuid | None = None


InputPart = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[InputText, Tag("<output_text>")]
    | Annotated[Refusal, Tag("<refusal>")]
    | Annotated[InputImage, Tag("<input_image>")]
    | Annotated[InputVideo, Tag("<input_video>")],
    Discriminator(kind_of()),
    known_kinds(
        "input_text",
        "output_text",
        "refusal",
        "input_image",
        "input_video",
        input_file=_NO_FILES,
        input_audio=_NO_SOUND,
    ),
]
Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[InputPart], Tag("<parts>")],
    Discriminator(text_or("<parts>")),
    text_or_list(),
]


class InputMessage(Body):
    """A turn of the conversation; answers of the server can be sent back as they came."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCall(Body):
    """A call that the model made in an earlier turn."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class FunctionCallOutput(Body):
    """What the function gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class ItemReference(Body):
    """An item of an earlier response, which this server does not keep."""

    type: Literal["item_reference"]
    id: str


InputItem = Annotated[
    Annotated[InputMessage, Tag("<message>")]
    | Annotated[FunctionCall, Tag("<function_call>")]
    | Annotated[FunctionCallOutput, Tag("<function_call_output>")]
    | Annotated[ItemReference, Tag("<item_reference>")],
    Discriminator(kind_of(default="message")),
    known_kinds(
        "message", "function_call", "function_call_output", "item_reference", default="message"
    ),
]
Input = Annotated[
    Annotated[str, Tag("<string>")]
    | Annotated[list[InputItem], Field(min_length=1), Tag("<items>")],
    Discriminator(text_or("<items>")),
    text_or_list(),
]


class TextFormat(Body):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


Format = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")],
    Discriminator(kind_of()),
    known_kinds("text", "json_object", "json_schema"),
]


class TextConfig(Body):
    """The form of the answer's text."""

    format: Format | None = None
    verbosity: str | None = Field(None, description="Only medium.")


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tool = Annotated[FunctionTool, known_kinds("function")]


class NamedFunction(Body):
    """The function that the model must call."""

    type: Literal["function"]
    name: str


class AllowedTools(Body):
    """The functions of `tools` that the model may call this time."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<string>")]
    | Annotated[NamedFunction, Tag("<function>")]
    | Annotated[AllowedTools, Tag("<allowed_tools>")],
    CHOICES,
]


class StreamOptions(Body):
    """Options of a stream."""

    include_obfuscation: bool | None = Field(None, description="Only false.")


class Reasoning(Body):
    """These models answer without reasoning."""

    effort: str | None = Field(None, description="Only none.")
    summary: str | None = Field(None, description="There is nothing to sum up: refused.")


class ResponsesRequest(Body):
    """A request to `/v1/responses`.

    Accepted without effect: `user`, `metadata`, `service_tier`, `prompt_cache_key`,
    `prompt_cache_options`, `prompt_cache_retention`, `safety_identifier`, `store` (false),
    `background` (false), `truncation` ("disabled").

    Beyond OpenAI's: `top_k`, `min_p`, `seed`, `stop`, `repetition_penalty`, `presence_penalty`,
    `frequency_penalty`, `mm_processor_kwargs`, `media_io_kwargs`, as in chat completions.
    """

    model: str
    input: Input
    instructions: str | None = None
    max_output_tokens: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Stop | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: list[str] | None = None
    text: TextConfig | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    mm_processor_kwargs: MediaSettings | None = None
    media_io_kwargs: MediaIo | None = None
    reasoning: Reasoning | None = None
    truncation: str | None = Field(None, description="Only disabled.")
    store: bool | None = Field(None, description="Only false: nothing is stored.")
    background: bool | None = Field(None, description="Only false: nothing is stored.")
    previous_response_id: str | None = Field(None, description="Refused: nothing is stored.")
    conversation: (
        Annotated[
            Annotated[str, Tag("<string>")] | Annotated[dict[str, Any], Tag("<object>")],
            Discriminator(text_or("<object>")),
            text_or_object(),
        ]
        | None
    ) = Field(None, description="Refused: nothing is stored.")
    prompt: dict[str, Any] | None = Field(None, description="Refused: nothing is stored.")
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = Field(None, description="Only auto or default.")
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
