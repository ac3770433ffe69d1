"""The tokenizer classes that released `tokenizer_config.json` files name."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerFast

from ..checkpoint.hub import Checkpoint
from .file_checks import check_tokenizer, check_tokenizer_files
from .sentencepiece import SPACE, joined
from .telling import turns_of
from .tokenizer_model import fast_tokenizer


class MiniCPMVTokenizerFast(PreTrainedTokenizerFast):
    """A tokenizer read from `tokenizer.json`, or else `tokenizer.model`, which knows its visual
    tags by name.

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

    # See `fast_tokenizer`.
    as_llama_fast = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a file that cannot be read is named.

        Raises:
            ValueError: a file of the tokenizer is damaged, or they are not of one model.
            OSError: there is none, or no `tokenizer_config.json`.
        """
        path = pretrained_model_name_or_path
        checkpoint = Checkpoint.at(path, kwargs)
        check_tokenizer_files(checkpoint)
        try:
            tokenizer = super().from_pretrained(path, *args, **kwargs)
        except Exception as error:
            if type(error) is not Exception:
                raise
            # All that the tokenizers library says.
            raise ValueError(
                f"tokenizer.json of {str(pretrained_model_name_or_path)!r} is damaged ({error}). "
                "Download it again."
            ) from error
        check_tokenizer(tokenizer, checkpoint)
        return tokenizer

    @classmethod
    def convert_to_native_format(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Arguments of the class from the files of a checkpoint."""
        kwargs.pop("auto_map", None)  # names code of the released repository, which we replace
        sources = ("tokenizer_file", "vocab_file", "tokenizer_object", "vocab")
        if kwargs.get("name_or_path") and all(kwargs.get(name) is None for name in sources):
            raise OSError(
                f"{kwargs['name_or_path']!r} has neither tokenizer.json nor tokenizer.model. "
                "Download it again, or check the path."
            )
        if kwargs.get("tokenizer_file") is not None or kwargs.get("vocab_file") is None:
            return super().convert_to_native_format(*args, **kwargs)
        kwargs["tokenizer_object"] = fast_tokenizer(
            kwargs["vocab_file"],
            kwargs.get("added_tokens_decoder"),
            as_llama_fast=cls.as_llama_fast,
        )
        kwargs.setdefault("add_bos_token", True)
        return kwargs

    @property
    def spells_in_bytes(self) -> bool:
        """Whether characters outside the vocabulary are tokens such as `<0xE6>`."""
        return bool(getattr(self.backend_tokenizer.model, "byte_fallback", False))

    def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
        with turns_of(self).alone():
            return super()._encode_plus(*args, **kwargs)

    def _decode(
        self, token_ids: Any, skip_special_tokens: bool = False, *args: Any, **kwargs: Any
    ) -> str:
        if not self.spells_in_bytes:
            return super()._decode(token_ids, skip_special_tokens, *args, **kwargs)
        # The decoder of tokenizers gives up whole characters that stand beside a broken one.
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        text = joined(self.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens))
        puts_space_in_front = self.backend_tokenizer.decoder.decode([SPACE]) == ""
        return text.removeprefix(" ") if puts_space_in_front else text

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


class MiniCPMTokenizerFast(MiniCPMVTokenizerFast):
    """Of the text models: their `tokenizer.model` has always been read as a fast Llama one."""

    as_llama_fast = True


def name_tags(tokenizer: Any, tags: Mapping[str, str]) -> None:
    """Give a tokenizer the names of its tags; engines for released models read them.

    Args:
        tags: of its release, under the names of `placeholders.RELEASED_TAGS`.
    """
    named = {name: tag for name, tag in tags.items() if name != "unk"}
    if isinstance(tokenizer, MiniCPMVTokenizerFast):
        for name, tag in named.items():
            if getattr(tokenizer, name) != tag:
                setattr(tokenizer, name, tag)
        return
    for name, value in vars(MiniCPMVTokenizerFast).items():
        if isinstance(value, str) and not name.startswith("_"):
            setattr(tokenizer, name, named.get(name, value))
    for name, value in vars(MiniCPMVTokenizerFast).items():
        if isinstance(value, property) and value.fget is not None:
            setattr(tokenizer, name, value.fget(tokenizer))
