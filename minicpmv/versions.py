"""What differs between releases, one frozen row each.

A released `config.json` leaves much unsaid: how the vision tower numbers its positions, which tags
stand around a slice, when an answer ends. The row supplies it once, when the config is read; from
then on only the config speaks, and no `forward` asks which release it is. Imports nothing of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Ids of the visual tags in a released vocabulary of `vocab_size` rows."""

    vocab_size: int
    image_token_id: int
    image_start_id: int
    image_end_id: int
    slice_start_id: int
    slice_end_id: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of the released `chat()`: `sampling=True` draws, `sampling=False` searches."""

    top_p: float = 0.8
    top_k: int = 100
    temperature: float = 0.7
    repetition_penalty: float = 1.05
    num_beams: int = 3
    beam_repetition_penalty: float = 1.2


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release of the family.

    Fields:
        version: as `config.version` says it, a string.
        name: what people call it; repo_ids: where the weights were released.
        text_model_type: transformers' name of the language model.
        vision_positions: "grid", two-dimensional buckets of each slice; "row", the slice read as
            one row of patches as long as the longest slice beside it. Released 2.5 weights expect
            "row".
        attend_padding: whether the patches that pad a short slice take part in attention. Released
            2.5 weights expect it.
        slice_tags: "cell", a tag pair around every slice; "grid", one pair around all slices of an
            image.
        use_image_id: whether `<image_id>k</image_id>` stands before every image.
        chat_template: file name in `processing/chat_templates`.
        terminators: token texts that end an answer.
        clean_up_spaces: whether answers lose the space before punctuation, as the released
            tokenizer does.
        mask_token_zero: whether the released code hides prompt tokens of id 0 ("!") from attention;
            done only under `compat="released"`.
        max_new_tokens, max_inp_length: defaults of the released `chat()`, in tokens.
        token_ids: the visual tags in the released vocabulary, for a config that comes without a
            tokenizer.
    """

    version: str
    name: str
    repo_ids: tuple[str, ...]
    text_model_type: str
    vision_positions: Literal["grid", "row"]
    attend_padding: bool
    slice_tags: Literal["grid", "cell"]
    use_image_id: bool
    chat_template: str
    terminators: tuple[str, ...]
    clean_up_spaces: bool
    mask_token_zero: bool
    max_new_tokens: int
    max_inp_length: int
    token_ids: TokenIds
    sampling: Sampling = Sampling()


RELEASES: dict[str, Release] = {
    release.version: release
    for release in (
        Release(
            version="2.5",
            name="MiniCPM-Llama3-V 2.5",
            repo_ids=("openbmb/MiniCPM-Llama3-V-2_5",),
            text_model_type="llama",
            vision_positions="row",
            attend_padding=True,
            slice_tags="grid",
            use_image_id=False,
            chat_template="minicpm_llama3_v_2_5.jinja",
            terminators=("<|end_of_text|>", "<|eot_id|>"),
            clean_up_spaces=True,
            mask_token_zero=False,
            max_new_tokens=1024,
            max_inp_length=2048,
            token_ids=TokenIds(
                vocab_size=128256,
                image_token_id=128002,
                image_start_id=128010,
                image_end_id=128011,
                slice_start_id=128020,
                slice_end_id=128021,
            ),
        ),
        Release(
            version="2.6",
            name="MiniCPM-V 2.6",
            repo_ids=("openbmb/MiniCPM-V-2_6",),
            text_model_type="qwen2",
            vision_positions="grid",
            attend_padding=False,
            slice_tags="cell",
            use_image_id=True,
            chat_template="minicpm_v_2_6.jinja",
            terminators=("<|im_end|>", "<|endoftext|>"),
            clean_up_spaces=False,
            mask_token_zero=True,
            max_new_tokens=2048,
            max_inp_length=8192,
            token_ids=TokenIds(
                vocab_size=151666,
                image_token_id=128244,
                image_start_id=151646,
                image_end_id=151647,
                slice_start_id=151656,
                slice_end_id=151657,
            ),
        ),
    )
}


def release_of(config: Mapping[str, Any]) -> Release:
    """The row that a `config.json` or `preprocessor_config.json` belongs to.

    `version` decides (2.5 says "2.5" in one file and 2.5 in the other). A config without one is
    2.5, the only release known here that was published before the field existed.

    Raises:
        ValueError: `version` is not a release this package knows.
    """
    version = config.get("version")
    version = "2.5" if version is None else str(version)
    if version not in RELEASES:
        known = ", ".join(RELEASES)
        raise ValueError(
            f"Version {version!r} of MiniCPM-V is not known. Known: {known}. "
            "For 4.6 and later, use the classes in transformers itself."
        )
    return RELEASES[version]
