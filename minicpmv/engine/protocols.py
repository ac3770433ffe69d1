"""What the engine asks of a model and a processor, whichever classes they are."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from ..releases import TextRelease


class Processor(Protocol):
    """Conversations to model inputs, tokens to text: `MiniCPMVProcessor`, `TextProcessor`."""

    tokenizer: Any

    @property
    def release(self) -> TextRelease: ...

    @property
    def compat(self) -> str | None: ...

    @property
    def terminator_ids(self) -> list[int]:
        """Ids that end an answer."""

    @property
    def text_only_grows(self) -> bool:
        """Whether more tokens only add to `text_of` (but for a character not yet complete)."""

    @property
    def clean_ups(self) -> Sequence[tuple[str, str]]:
        """Replacements, one after the other, that make an answer of `text_of`."""

    def apply_chat_template(
        self,
        conversation: Any,
        *,
        add_generation_prompt: bool = ...,
        tokenize: bool = ...,
        return_dict: bool = ...,
        processor_kwargs: Mapping[str, Any] | None = ...,
    ) -> Any: ...

    def question(self, conversation: Any) -> list[dict[str, Any]]:
        """The messages of a conversation that asks something, checked and in one form."""

    def decode_answer(self, output_ids: Any, *, strip: bool = True) -> str: ...

    @property
    def ignored_ids(self) -> Collection[int]:
        """Ids that leave no text in an answer, wherever they stand."""

    @property
    def leading_id(self) -> int | None:
        """The id that leaves none as the first of an answer."""

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens as it stands."""


class PictureProcessor(Processor, Protocol):
    """Of a model that supports images: `MiniCPMVProcessor`."""

    def pixels_of(self, block: dict[str, Any], **kwargs: Any) -> Mapping[str, torch.Tensor]:
        """`pixel_values` and `target_sizes` of one block of type image or video; keywords of the
        image processor."""


class CausalModel(Protocol):
    """A transformers model that generates."""

    config: Any
    generation_config: Any

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """Only of a model that supports images."""

    def generate(self, **kwargs: Any) -> Any: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
