"""The processor of the text models: a tokenizer and its chat template, no pictures.

It has the part of `MiniCPMVProcessor` that a conversation needs, so that `Chat` and
`engine` take either.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import BatchFeature

from ..errors import AdviceError
from ..releases import Release, TextRelease
from .encoding import encode
from .messages import normalised, question
from .prompt import adds_special_tokens
from .quoting import reserved_tags
from .templates import keys_read
from .tokenizer import MiniCPMTokenizerFast


class TextProcessor:
    """Conversations to token ids, token ids to answers.

    Args:
        tokenizer: the tokenizer of the checkpoint, with a chat template.
        release: the row of the checkpoint in `releases.py`.
        compat: "released" reproduces released behaviour that loses user data; see
            docs/differences.md.
    """

    # As in `MiniCPMVProcessor`.
    clean_ups = ()
    ignored_ids = ()
    leading_id = None

    def __init__(
        self,
        tokenizer: Any,
        release: TextRelease,
        compat: Literal["released"] | None = None,
    ):
        if compat not in (None, "released"):
            raise ValueError(f"compat is {compat!r}; it must be None or 'released'.")
        if not tokenizer.chat_template:
            raise ValueError(
                f"tokenizer_config.json of {tokenizer.name_or_path!r} has no chat_template, and no "
                "chat_template.jinja is beside it, so it is not known how a conversation is "
                "written. Take the file of the release that has it."
            )
        self.tokenizer = tokenizer
        self.release = release
        self.compat = compat

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        release: TextRelease,
        compat: Literal["released"] | None = None,
        **kwargs: Any,
    ) -> "TextProcessor":
        """Read the tokenizer of a folder or hub name; keywords as in transformers."""
        return cls(load_text_tokenizer(pretrained_model_name_or_path, **kwargs), release, compat)

    @property
    def text_only_grows(self) -> bool:
        """Whether more tokens only add to the text of an answer."""
        return self.compat != "released"  # which drops the last token

    @property
    def terminator_ids(self) -> list[int]:
        """Ids that end an answer."""
        texts = dict.fromkeys([*self.release.terminators, self.tokenizer.eos_token])
        return [self.tokenizer.convert_tokens_to_ids(text) for text in texts]

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        processor_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Prompt text, or with `tokenize=True` the inputs, of one conversation or a list of them.

        With `tokenize=True` the tags of the vocabulary, such as `</s>`, are plain text when they
        stand in a message; with `compat="released"` they keep their meaning.

        Returns:
            Text or a list of texts; or `input_ids` and `attention_mask` (batch, seq), padded on the
            left.

        Raises:
            ValueError: a message holds a picture or a video, or an option is for pictures.
        """
        if processor_kwargs:
            if isinstance(self.release, Release):
                raise AdviceError(f"Pictures have no effect: {self._why_not()}")
            raise ValueError(
                f"{', '.join(processor_kwargs)} has no effect: {self.release.name} reads text only."
            )
        is_batch = bool(conversation) and not isinstance(conversation[0], Mapping)
        quote = self._reserved_tags() if tokenize else None
        texts = [
            self._rendered(self._normalised(turns, quote), add_generation_prompt)
            for turns in (conversation if is_batch else [conversation])
        ]
        if not tokenize:
            return texts if is_batch else texts[0]
        inputs = self._padded([self._ids(text) for text in texts])
        return inputs if return_dict else inputs["input_ids"]

    def prompts_of(self, messages: Any, parts: Iterable[tuple[int, bool]]) -> list[str]:
        """As in `MiniCPMVProcessor`."""
        turns = self._normalised(messages, self._reserved_tags())
        return [self._rendered(turns[:end], opens) for end, opens in parts]

    def question(self, conversation: Any) -> list[dict[str, Any]]:
        """As in `MiniCPMVProcessor`."""
        return question(conversation, keys_read(self.tokenizer.chat_template))

    def decode_answer(self, output_ids: Any, *, strip: bool = True) -> str:
        """The text of one generated answer.

        It ends before the first terminator or stop text and keeps other special tokens. With
        `compat="released"` the last token is dropped whatever it is, as it was.
        """
        ids = [int(token) for token in output_ids]
        terminators = set(self.terminator_ids)
        end = next((index for index, token in enumerate(ids) if token in terminators), len(ids))
        text = self.text_of(ids[:-1] if self.compat == "released" else ids[:end])
        for stop in self.release.stop_texts:
            text = text.partition(stop)[0]
        return text.strip() if strip else text

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens as it stands, special ones too."""
        if self.compat == "released":  # loses characters beside a broken one
            return self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _reserved_tags(self) -> re.Pattern[str] | None:
        """What is put in quotes in messages."""
        if self.compat == "released":
            return None
        return reserved_tags(map(str, self.tokenizer.added_tokens_encoder), keep_markers=False)

    def _normalised(self, messages: Any, quote: re.Pattern[str] | None) -> list[dict[str, Any]]:
        """The messages as texts, checked."""
        turns = normalised(messages, quote, other_keys=keys_read(self.tokenizer.chat_template))
        return [self._as_text(i, message) for i, message in enumerate(turns)]

    def _rendered(self, turns: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        """The messages as the template of the tokenizer writes them."""
        return str(
            self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _as_text(self, index: int, message: dict[str, Any]) -> dict[str, Any]:
        """The message with its blocks as one text."""
        content = message.get("content", "")
        if isinstance(content, str):
            return {**message, "content": content}
        for block in content:
            if block["type"] != "text":
                raise AdviceError(
                    f"Message {index} has a block of type {block['type']!r}, but {self._why_not()}"
                )
        return {**message, "content": "\n".join(block["text"] for block in content)}

    def _why_not(self) -> str:
        """Why there can be no pictures, and the next step."""
        name = self.release.name
        if isinstance(self.release, Release):
            return (
                f"this is the language model of {name} alone. Load the GGUF file with "
                "`mmproj=FILE`, its vision side."
            )
        return f"{name} reads text only. Load a release that supports images: 2.6, or nano."

    def _ids(self, text: str) -> list[int]:
        return encode(self.tokenizer, text, adds_special_tokens(self.tokenizer, text)).ids

    def _padded(self, rows: list[list[int]]) -> BatchFeature:
        pad_id = self.tokenizer.pad_token_id
        pad_id = self.terminator_ids[0] if pad_id is None else pad_id
        longest = max(map(len, rows))
        missing = [longest - len(row) for row in rows]
        return BatchFeature(
            {
                "input_ids": torch.tensor(
                    [[pad_id] * n + row for n, row in zip(missing, rows, strict=True)]
                ),
                "attention_mask": torch.tensor([[0] * n + [1] * (longest - n) for n in missing]),
            }
        )


def load_text_tokenizer(pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
    """The tokenizer of a text model, whatever class its files name.

    LlamaTokenizer, which released files name, has encoded leading spaces in another way since
    transformers 5.
    """
    return MiniCPMTokenizerFast.from_pretrained(pretrained_model_name_or_path, **kwargs)
