"""The tokenizer class that released `tokenizer_config.json` files name."""

from typing import Any

from transformers import PreTrainedTokenizerFast


class MiniCPMVTokenizerFast(PreTrainedTokenizerFast):
    """A tokenizer read from `tokenizer.json`, which knows its visual tags by name.

    `im_start` is the text `<image>` and `im_start_id` its id, likewise for the other tags. A tag
    that the vocabulary lacks has the id of the unknown token, as in the released classes.
    """

    im_start = "<image>"
    im_end = "</image>"
    ref_start = "<ref>"
    ref_end = "</ref>"
    box_start = "<box>"
    box_end = "</box>"
    quad_start = "<quad>"
    quad_end = "</quad>"
    point_start = "<point>"
    point_end = "</point>"
    slice_start = "<slice>"
    slice_end = "</slice>"
    im_id_start = "<image_id>"
    im_id_end = "</image_id>"
    eot_token = "<|eot_id|>"

    @property
    def bos_id(self) -> int:
        return self.bos_token_id

    @property
    def eos_id(self) -> int:
        return self.eos_token_id

    @property
    def unk_id(self) -> int:
        return self.unk_token_id

    @property
    def eot_id(self) -> int:
        return self.convert_tokens_to_ids(self.eot_token)

    @property
    def im_start_id(self) -> int:
        return self.convert_tokens_to_ids(self.im_start)

    @property
    def im_end_id(self) -> int:
        return self.convert_tokens_to_ids(self.im_end)

    @property
    def slice_start_id(self) -> int:
        return self.convert_tokens_to_ids(self.slice_start)

    @property
    def slice_end_id(self) -> int:
        return self.convert_tokens_to_ids(self.slice_end)

    @property
    def im_id_start_id(self) -> int:
        return self.convert_tokens_to_ids(self.im_id_start)

    @property
    def im_id_end_id(self) -> int:
        return self.convert_tokens_to_ids(self.im_id_end)

    @property
    def newline_id(self) -> int:
        # Byte-level vocabularies write the newline as another character, so this is the unknown
        # token there, as in the released class.
        return self.convert_tokens_to_ids("\n")


MiniCPMVTokenizer = MiniCPMVTokenizerFast


def name_tags(tokenizer: Any) -> None:
    """Give a tokenizer of another class the same names; engines for released models read them."""
    if isinstance(tokenizer, MiniCPMVTokenizerFast):
        return
    for name, value in vars(MiniCPMVTokenizerFast).items():
        if isinstance(value, str) and not name.startswith("_"):
            setattr(tokenizer, name, value)
    for name, value in vars(MiniCPMVTokenizerFast).items():
        if isinstance(value, property) and value.fget is not None:
            setattr(tokenizer, name, value.fget(tokenizer))
