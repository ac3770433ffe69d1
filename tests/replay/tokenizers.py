"""Replay of tokenizer tables: strings, their ids, and how ids become text again."""

from typing import Any

from minicpmv.processing.sentencepiece import joined_as_released

from .replayer import Replay, compares

ATTRIBUTES = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unk_token_id",
    "pad": "pad_token_id",
    "im_start": "im_start_id",
    "im_end": "im_end_id",
}


class Tokenizer(Replay):
    kinds = ("tokenizer",)

    @property
    def tokenizer(self) -> Any:
        return self.released.processor.tokenizer

    @compares(r"attribute/(\w+)")
    def attribute(self, name: str, recorded: Any, attribute: str) -> None:
        if attribute == "len":
            found = len(self.tokenizer)
        elif attribute == "im_patch":
            found = self.released.processor.image_token_id
        elif attribute in ("pad", "pad_token_id"):
            # The processor names a pad token where the files name none.
            found = self.released.tokenizer_as_stored.pad_token_id
        elif attribute == "padding_side":
            found = self.released.tokenizer_as_stored.padding_side
        else:
            found = getattr(self.tokenizer, ATTRIBUTES.get(attribute, attribute))
        self.check.equal(name, found, recorded)

    @compares("terminators")
    def terminators(self, name: str, recorded: list[int]) -> None:
        self.check.equal(name, self.released.processor.terminator_ids, recorded)

    @compares(r"encode/\d+")
    def encode(self, name: str, recorded: dict[str, Any]) -> None:
        self.check.equal(f"{name}/fields", set(recorded), {"text", "ids"})
        self.check.equal(name, self.tokenizer(recorded["text"])["input_ids"], recorded["ids"])

    @compares(r"decode_answer/\d+")
    def decode_answer(self, name: str, recorded: dict[str, Any]) -> None:
        """Where the released code failed, ours gives nothing."""
        self.check.equal(f"{name}/fields", set(recorded), {"text", "ids"})
        found = self.released.processor.decode_answer(recorded["ids"], cut=False)
        self.check.equal(name, found, recorded["text"] or "")

    @compares(r"string/\d+")
    def string(self, name: str, recorded: dict[str, Any]) -> None:
        """One string and everything that was recorded of it."""
        text, ids = recorded["text"], recorded["ids"]
        encoding = self.tokenizer(text)
        found = {
            "text": lambda: text,
            "ids": lambda: encoding["input_ids"],
            "tokens": lambda: encoding.tokens(),
            "ids_no_special": lambda: self.tokenizer(text, add_special_tokens=False)["input_ids"],
            "decode": lambda: self._decoded(ids, False),
            "decode_skip_special": lambda: self._decoded(ids, True),
            "decode_of_ids_without_bos": lambda: self._decoded(ids[1:], False),
        }
        for key, value in recorded.items():
            if key not in found:
                self.check.holds(f"{name}/{key}", False, "nothing compares it")
            else:
                self.check.equal(f"{name}/{key}", found[key](), value)
        self.check.compared[name] += 1

    def _decoded(self, ids: list[int], skips_special: bool) -> str:
        """Text as the released tokenizer spaced it."""
        if self.released.processor.release.released_decoding != "spaced":
            return self.tokenizer.decode(
                ids, skip_special_tokens=skips_special, clean_up_tokenization_spaces=False
            )
        pieces = self.tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=skips_special)
        return joined_as_released(pieces, set(self.tokenizer.all_special_tokens))

    @compares(r"official/(\w+)")
    def official(self, name: str, recorded: Any, key: str) -> None:
        """Ids of the tags in the released vocabulary, which `releases.py` states."""
        ids = self.released.processor.release.token_ids
        if key in ("len", "vocab_size"):
            self.check.equal(name, ids.vocab_size, recorded)
        elif key == "slice":
            # 1.0 has no tags of slices: the first ids are those of unknown tokens.
            found = [ids.slice_start_id or 0, ids.slice_end_id or 0]
            self.check.equal(name, found, recorded[:2])
        elif key == "model_max_length":
            self.check.equal(name, self.released.tokenizer_as_stored.model_max_length, recorded)
        elif key == "pad_token":
            self.check.equal(name, self.released.tokenizer_as_stored.pad_token, recorded)
        else:
            self.check.equal(name, getattr(self.tokenizer, key), recorded)
