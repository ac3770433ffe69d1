"""`/tokenize` and `/detokenize`, as vLLM writes them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from .base import Body
from .completions import TokenId
from .openai import MediaIo, MediaSettings
from .parts import ChatMessage


class TokenizeRequest(Body):
    """A text, or a conversation as the model is shown it: one of `prompt` and `messages`.

    Fields:
        model: the first one that is served, by default.
        add_special_tokens: of `prompt`: whether it begins as every text of the vocabulary; true by
            default.
        return_token_strs: whether the text of each token is told, too.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    mm_processor_kwargs: MediaSettings | None = None
    media_io_kwargs: MediaIo | None = None
    add_generation_prompt: bool | None = Field(None, description="Only true.")
    continue_final_message: bool | None = Field(None, description="Only false.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Only what the template would do anyway: {enable_thinking: false}."
    )


class TokenizeResponse(BaseModel):
    """Tokens, and how many the model takes at most."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Body):
    """Token ids; `model` is the first one that is served, by default."""

    model: str | None = None
    tokens: list[TokenId]


class DetokenizeResponse(BaseModel):
    """The text of tokens."""

    prompt: str
