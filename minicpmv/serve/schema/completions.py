"""`/v1/completions`: text that goes on, as OpenAI's older protocol writes it, with extensions."""

from typing import Annotated

from pydantic import Field

from .openai import MAX_LOGPROBS, ResponseFormat, Sampling, StreamOptions, StructuredOutputs

MAX_PROMPTS = 128

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(Sampling):
    """Text or token ids to be continued, without a chat template.

    Fields:
        prompt: a text, token ids, or a list of either; each has `n` answers, in the order of the
            list.
        max_tokens: 16 by default, as in OpenAI's protocol.
        logprobs: how many of the likeliest tokens are named at each place; the chosen one always
            is.
        echo: whether each text begins with its prompt.
    """

    model: str
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    # Accepted where the value asks for nothing that is not done anyway.
    suffix: str | None = Field(None, description="Refused: text is only continued at its end.")
    user: str | None = Field(None, description="Without effect.")
    cache_salt: str | None = Field(None, description="Without effect.")
    add_special_tokens: bool | None = Field(None, description="Only true.")
    skip_special_tokens: bool | None = Field(None, description="Only true.")
    spaces_between_special_tokens: bool | None = Field(None, description="Only true.")
    include_stop_str_in_output: bool | None = Field(None, description="Only false.")
