"""Prompts of the chat template to tokens, with the text of pictures in place of their markers.

The one way from a prompt to ids: the call of the processor and the training data (`turns.py`) both
take it, so that they cannot differ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .encoding import Encoded, GrowingText, Span, encode


class PromptTokens(NamedTuple):
    """One prompt as tokens.

    Fields:
        encoded: ids, and the span of characters that each came from.
        mask: 1 where a token is a visual placeholder, (num_tokens,).
        replacements: what stands where pictures were marked, see `get_text_with_replacements`.
    """

    encoded: Encoded
    mask: np.ndarray[Any, np.dtype[Any]]
    replacements: list[dict[str, Any]]

    @property
    def spans(self) -> list[Span]:
        """The characters of each picture's text."""
        return [item["new_span"] for item in self.replacements]


def prompt_tokens(
    processor: Any,
    prompts: Sequence[str],
    image_texts: Sequence[str] = (),
    video_texts: Sequence[str] = (),
    *,
    add_special_tokens: bool | None = None,
    compat: str | None = None,
    encoder: GrowingText | None = None,
) -> list[PromptTokens]:
    """The tokens of each prompt.

    Args:
        processor: a `MiniCPMVProcessor`.
        prompts: texts with a marker per picture; tags in quotes are characters.
        image_texts, video_texts: what stands for each picture, in order through the batch.
        add_special_tokens: None: where the prompt does not begin with them.
        encoder: for prompts that go on from each other.
    """
    filler = processor.image_processor.unk if image_texts or video_texts else None
    texts, replacements = processor.get_text_with_replacements(prompts, image_texts, video_texts)
    found = []
    for text, replaced in zip(texts, replacements, strict=True):
        special = adds_special_tokens(processor.tokenizer, text, add_special_tokens, compat)
        encoded = (
            encode(processor.tokenizer, text, special, filler)
            if encoder is None
            else encoder(text, special, filler)
        )
        spans = [item["new_span"] for item in replaced]
        mask = encoded.mask(processor.image_token_id, spans)
        found.append(PromptTokens(encoded, mask, replaced))
    return found


def adds_special_tokens(
    tokenizer: Any, prompt: str, asked: bool | None = None, compat: str | None = None
) -> bool:
    """Whether the tokenizer puts its special tokens around a prompt.

    A prompt that begins with the begin-of-sequence token has come from the template. The released
    code lets the tokenizer put a second one in front, if its file says so.
    """
    if asked is not None and compat != "released":
        return asked
    bos = tokenizer.bos_token
    return compat == "released" or not (bos and prompt.startswith(bos))
