"""The tokenizer that vLLM gets: text of messages is data, and each picture is one token.

A chat template writes a marker per picture. Here the markers are tokens of their own, which the
processor replaces; a marker, or any other tag, that a user typed is put in quotes before the
template is filled in, and `renderer.py` encodes what stands in quotes as plain characters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken
from transformers import AutoConfig, AutoProcessor, AutoTokenizer
from vllm.exceptions import VLLMValidationError
from vllm.tokenizers.hf import get_cached_tokenizer

from ...model.configuration_minicpm import MiniCPMConfig
from ...processing.placeholders import IMAGE_MARKER, VIDEO_MARKER
from ...processing.quoting import QUOTE_END, QUOTE_START, quoted, reserved_tags

MARKERS = {"image": IMAGE_MARKER, "video": VIDEO_MARKER}
# An empty quote in front says that a text came out of the chat template.
RENDERED = QUOTE_START + QUOTE_END


class MarkingTokenizer:
    """What vLLM's table of tokenizers names; it only makes them."""

    @classmethod
    def from_pretrained(
        cls, path: Any, *args: Any, download_dir: str | None = None, **kwargs: Any
    ) -> Any:
        kwargs.pop("mistral_format", None)
        kwargs.pop("trust_remote_code", None)  # ours needs none
        tokenizer = AutoTokenizer.from_pretrained(path, *args, cache_dir=download_dir, **kwargs)
        revision = kwargs.get("revision")
        if isinstance(AutoConfig.from_pretrained(path, revision=revision), MiniCPMConfig):
            return get_cached_tokenizer(quoting(tokenizer))
        template = AutoProcessor.from_pretrained(path, revision=revision).chat_template
        return get_cached_tokenizer(marking(tokenizer, template))


def marking(tokenizer: Any, chat_template: Any) -> Any:
    """The tokenizer with the markers as tokens, the template of the processor, and quotes."""
    tokenizer.add_tokens(
        [AddedToken(marker, special=True, normalized=False) for marker in MARKERS.values()],
        special_tokens=True,
    )
    tokenizer.chat_template = chat_template
    return quoting(tokenizer)


def quoting(tokenizer: Any) -> Any:
    """The tokenizer whose chat template puts tags of messages in quotes."""
    tokenizer.__class__ = _quoting(type(tokenizer))
    return tokenizer


def marker_ids(tokenizer: Any) -> dict[str, int]:
    """The token of each kind of picture; none for a text model."""
    added = tokenizer.added_tokens_encoder
    return {kind: added[marker] for kind, marker in MARKERS.items() if marker in added}


def check_markers(ids: Sequence[int], given: Mapping[str, int], tokens: Mapping[str, int]) -> None:
    """Check that a prompt marks as many pictures as there are.

    Args:
        given: how many of each kind.
        tokens: of `marker_ids`.

    Raises:
        VLLMValidationError: names both numbers.
    """
    for kind, number in given.items():
        marked = sum(token == tokens[kind] for token in ids)
        if marked != number:
            raise VLLMValidationError(
                f"The prompt has {marked} {kind} placeholders but {number} {kind}s were given. "
                f"Write one {MARKERS[kind]} per {kind}.",
                parameter="prompt",
            )


_CLASSES: dict[Any, Any] = {}


def _quoting(base: Any) -> Any:
    """The class of a tokenizer, with quotes."""
    if base in _CLASSES:
        return _CLASSES[base]

    class Quoting(base):
        def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
            added = [str(token) for token in self.added_tokens_decoder.values() if token.special]
            messages = [quoted_message(message, added) for message in conversation]
            rendered = super().apply_chat_template(messages, *args, **kwargs)
            return f"{RENDERED}{rendered}" if isinstance(rendered, str) else rendered

    Quoting.__name__ = base.__name__
    _CLASSES[base] = Quoting
    return Quoting


def quoted_message(message: Mapping[str, Any], added_tokens: list[str]) -> Any:
    """A message with what its text must not write in quotes.

    Content that is a text holds the markers that vLLM itself put there; beside blocks there are
    none.
    """
    keep_markers = isinstance(message.get("content"), str)
    return quoted(message, reserved_tags(added_tokens, keep_markers=keep_markers))
