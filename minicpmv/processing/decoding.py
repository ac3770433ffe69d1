"""Generated ids to the text of an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.processing_utils import ProcessorMixin

from ..releases import Release
from .sentencepiece import joined_as_released

# What the tokenizer of 2.5 applies, in this order, when it decodes.
_SPACE_CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class AnswerDecoding(ProcessorMixin):
    """How a processor turns ids into the text of an answer.

    It needs the attributes `tokenizer` and `image_processor`, which knows the release.
    """

    tokenizer: Any
    image_processor: Any

    @property
    def release(self) -> Release:
        """What this release leaves unsaid in its files."""
        return self.image_processor.release

    @property
    def compat(self) -> str | None:
        """ "released" where released behaviour that loses user data is reproduced."""
        return self.image_processor.compat

    @property
    def terminator_ids(self) -> list[int]:
        """Ids that end an answer."""
        return [self.tokenizer.convert_tokens_to_ids(token) for token in self.release.terminators]

    def decode_answer(self, output_ids: Any, *, cut: bool = True, strip: bool = True) -> str:
        """The text of one generated answer.

        It ends before the first terminator (with `cut=False` only a trailing one is removed), loses
        a leading begin-of-sequence token, keeps other special tokens, and is stripped (streams of
        the released code were not: `strip=False`). Answers of 2.5 also lose the space before
        punctuation. With `compat="released"` every id 0 ("!" in 2.6, `<unk>` in 1.0 and 2.0) is
        deleted, and special tokens are written or left out, as they were.
        """
        ids = [int(token) for token in np.asarray(output_ids).reshape(-1).tolist()]
        terminators = set(self.terminator_ids)
        if cut:
            ends = [index for index, token in enumerate(ids) if token in terminators]
            ids = ids[: ends[0]] if ends else ids
        ids = [token for token in ids if token not in self.ignored_ids]
        if ids and ids[0] == self.leading_id:
            ids = ids[1:]
        if ids and ids[-1] in terminators:
            ids = ids[:-1]
        text = self.clean_up_spaces(self.text_of(ids))
        return text.strip() if strip else text

    @property
    def text_only_grows(self) -> bool:
        """Whether more tokens only add to the text of an answer, but for its last word.

        Not as released in 1.0 and 2.0, where a tag puts a space before the text that stands before
        it, and in OmniLMM-12B, where a broken byte takes whole characters with it.
        """
        return self._decoding == "plain"

    @property
    def clean_ups(self) -> tuple[tuple[str, str], ...]:
        """Replacements, one after the other, that the tokenizer of 2.5 makes when it decodes."""
        return _SPACE_CLEAN_UPS if self.release.clean_up_spaces else ()

    @property
    def ignored_ids(self) -> tuple[int, ...]:
        """Ids that leave no text in an answer: 0 where released behaviour is reproduced."""
        return (0,) if self.compat == "released" else ()

    @property
    def leading_id(self) -> int | None:
        """The id that leaves no text as the first of an answer."""
        return self.tokenizer.bos_token_id

    @property
    def _decoding(self) -> str:
        compat = self.compat
        return self.release.released_decoding if compat == "released" else "plain"

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens as it stands, special ones too where the release writes them."""
        ids = list(ids)
        if self._decoding == "spaced":
            pieces = self.tokenizer.convert_ids_to_tokens(ids)
            return joined_as_released(pieces, set(self.tokenizer.all_special_tokens))
        if self._decoding == "dropped":
            return self.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def clean_up_spaces(self, text: str) -> str:
        """`text` without the spaces that 2.5 removes when it decodes; unchanged otherwise."""
        for found, replacement in self.clean_ups:
            text = text.replace(found, replacement)
        return text

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Texts of a batch of outputs, for transformers' pipelines."""
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        texts = self.tokenizer.batch_decode(
            generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs
        )
        return [self.clean_up_spaces(text).strip() for text in texts]
