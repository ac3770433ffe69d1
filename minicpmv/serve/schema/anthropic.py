"""Bodies of Anthropic's `/v1/messages` and `/v1/messages/count_tokens`.

`cache_control` is accepted wherever Anthropic has it and has no effect: every prompt is remembered.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .base import Body
from .kinds import kind_of, known_kinds
from .openai import MAX_STOPS, MediaSettings, StopText, Whole
from .parts import text_or, text_or_list

_NO_FILES = "files are not supported; send text and pictures"


class CacheControl(Body):
    """Where a cache could begin; prompts are remembered without it."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Body):
    """Text."""

    type: Literal["text"]
    text: str
    citations: list[Any] | None = None
    cache_control: CacheControl | None = None


class Base64Source(Body):
    """The bytes of a picture."""

    type: Literal["base64"]
    data: str
    media_type: str


class UrlSource(Body):
    """An address that the server may open, or a data URL."""

    type: Literal["url"]
    url: str


Source = Annotated[
    Annotated[Base64Source, Tag("<base64>")] | Annotated[UrlSource, Tag("<url>")],
    Discriminator(kind_of()),
    known_kinds("base64", "url", file="files are not kept; send the picture itself as base64"),
]


class ImageBlock(Body):
    """A picture."""

    type: Literal["image"]
    source: Source
    cache_control: CacheControl | None = None


class ToolUseBlock(Body):
    """A call that the model made in an earlier turn."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")] | Annotated[ImageBlock, Tag("<image>")],
    Discriminator(kind_of()),
    known_kinds("text", "image", document=_NO_FILES, search_result="send its text"),
]
ResultContent = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[ResultBlock], Tag("<blocks>")],
    Discriminator(text_or("<blocks>")),
    text_or_list(),
]


class ToolResultBlock(Body):
    """What the tool gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: ResultContent | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")],
    Discriminator(kind_of()),
    known_kinds(
        "text",
        "image",
        "tool_use",
        "tool_result",
        document=_NO_FILES,
        search_result="send its text",
        thinking="these models do not think; leave it out",
        redacted_thinking="these models do not think; leave it out",
    ),
]
Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[Block], Tag("<blocks>")],
    Discriminator(text_or("<blocks>")),
    text_or_list(),
]
SystemBlock = Annotated[TextBlock, known_kinds("text")]
System = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[SystemBlock], Tag("<blocks>")],
    Discriminator(text_or("<blocks>")),
    text_or_list(),
]


class Message(Body):
    """A turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


class ToolDefinition(Body):
    """A tool that the model may call."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None


Tool = Annotated[ToolDefinition, known_kinds("custom", default="custom")]


class ToolChoiceAuto(Body):
    """The model decides whether to call a tool."""

    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = None


class ToolChoiceAny(Body):
    """The model must call a tool."""

    type: Literal["any"]
    disable_parallel_tool_use: bool | None = None


class ToolChoiceTool(Body):
    """The model must call this tool."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class ToolChoiceNone(Body):
    """The model must not call a tool."""

    type: Literal["none"]


ToolChoice = Annotated[
    Annotated[ToolChoiceAuto, Tag("<auto>")]
    | Annotated[ToolChoiceAny, Tag("<any>")]
    | Annotated[ToolChoiceTool, Tag("<tool>")]
    | Annotated[ToolChoiceNone, Tag("<none>")],
    Discriminator(kind_of()),
    known_kinds("auto", "any", "tool", "none"),
]


class OutputFormat(Body):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """The form of the answer."""

    format: OutputFormat | None = None
    effort: str | None = Field(None, description="The model answers without thinking: refused.")


class Thinking(Body):
    """These models answer without thinking."""

    type: str = Field(description="Only disabled.")
    budget_tokens: int | None = None
    display: str | None = None


class Metadata(Body):
    """Who asks; it has no effect."""

    user_id: str | None = None


class CountTokensRequest(Body):
    """A request to `/v1/messages/count_tokens`."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    system: System | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    thinking: Thinking | None = None
    cache_control: CacheControl | None = None
    mm_processor_kwargs: MediaSettings | None = None


class MessagesRequest(CountTokensRequest):
    """A request to `/v1/messages`.

    Accepted without effect: `metadata`, `service_tier`, `speed` ("standard"), `cache_control`.
    """

    max_tokens: Whole
    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: str | None = Field(None, description="Only auto or standard_only.")
    speed: str | None = Field(None, description="Only standard.")
