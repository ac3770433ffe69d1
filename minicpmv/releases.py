"""What differs between releases, one frozen row each.

A released `config.json` leaves much unsaid: how the vision tower numbers its positions, which tags
stand around a slice, when an answer ends. The row supplies it once, when the config is read; from
then on only the config speaks, and no `forward` asks which release it is. Imports nothing of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Ids of the visual tags in a released vocabulary of `vocab_size` rows.

    None for slice tags where pictures are never cut.
    """

    vocab_size: int
    image_token_id: int
    image_start_id: int
    image_end_id: int
    slice_start_id: int | None = None
    slice_end_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of the released `chat()`: `sampling=True` draws, `sampling=False` searches.

    `draws` says which of the two it does when not asked.
    """

    draws: bool = True
    top_p: float = 0.8
    top_k: int = 100
    temperature: float = 0.7
    repetition_penalty: float = 1.05
    num_beams: int = 3
    beam_repetition_penalty: float = 1.2


@dataclass(frozen=True, kw_only=True)
class TextRelease:
    """One release of a language model: what prompts and answers need to know of it.

    Fields:
        name: what people call it; repo_ids: where the weights were released.
        terminators: token texts that end an answer.
        stop_texts: texts that end an answer, too, although the vocabulary has no tokens for them;
            the released `chat()` cuts there.
        user_tag: what the chat template writes before a user's message. A checkpoint in the format
            of Llama is ours when its template has it.
        clean_up_spaces: whether answers lose the space before punctuation, as the released
            tokenizer does.
        penalise_prompt: whether the repetition penalty counts the tokens of the prompt, as in
            released code that generates from token ids.
        max_new_tokens: longest answer of the released `chat()`, in tokens.
        sampling: its settings.
        unused_settings: what the released `generation_config.json` says and the released `chat()`
            overrules; another value there is the wish of whoever wrote it.
    """

    name: str
    repo_ids: tuple[str, ...]
    terminators: tuple[str, ...] = ("</s>",)
    stop_texts: tuple[str, ...] = ()
    user_tag: str = ""
    clean_up_spaces: bool = False
    penalise_prompt: bool = False
    max_new_tokens: int
    sampling: Sampling = Sampling()
    unused_settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Release(TextRelease):
    """One release of the family that supports images.

    Fields:
        version: as `config.version` says it, a string; "omnilmm-12b" for OmniLMM-12B, whose files
            have none.
        model_type: as `config.json` says it.
        text_model_type: transformers' name of the language model.
        vision_tower: "navit", one learned table for slices of any shape (`model/vision.py`); "vit",
            timm's layout, positions enlarged to each slice (`model/vit.py`).
        vision_encoder: "vit" only. timm's name of the tower.
        vision_positions: "navit" only. "grid", two-dimensional buckets of each slice; "row", the
            slice read as one row of patches as long as the longest slice beside it. Released 2.5
            weights expect "row".
        attend_padding: whether the patches that pad a short slice take part in attention. Released
            2.5 weights expect it.
        query_positions: whether the resampler adds its stored position table to its queries.
        key_positions: "sincos", computed for the slice's own shape; "table", the stored table
            enlarged to it.
        slicing: "adaptive", cut as `processing/slicing.py` plans; "square", resized to a square of
            `image_size` pixels whatever its shape, never cut.
        pads_uncut: what `slice_mode=False` does with rows and columns that fill no patch: True
            fills the patch with zeros, False leaves them out.
        has_preprocessor_config: whether the repository has `preprocessor_config.json`; where not,
            `config.json` says how pictures are cut.
        image_mean, image_std: per channel, of values from 0 to 1.
        tags: reserved strings that are not those of `placeholders.RELEASED_TAGS`.
        slice_tags: "cell", a tag pair around every slice; "grid", one pair around all slices of an
            image.
        use_image_id: whether `<image_id>k</image_id>` stands before every image.
        chat_template: file name in `processing/chat_templates`.
        image_tag: what the released code replaced by the picture when the first message held it;
            done only under `compat="released"`.
        released_decoding: how the released code wrote special tokens in answers, done only under
            `compat="released"`: "plain", as they are; "spaced", with a space before the text before
            them; "dropped", not at all.
        mask_token_zero: whether the released code hides prompt tokens of id 0 ("!") from attention;
            done only under `compat="released"`.
        max_inp_length: where the released `chat()` cuts a prompt, in tokens.
        token_ids: the visual tags in the released vocabulary, for a config that comes without a
            tokenizer.
    """

    version: str
    model_type: Literal["minicpmv", "omnilmm"] = "minicpmv"
    text_model_type: str
    vision_tower: Literal["navit", "vit"]
    vision_encoder: str | None = None
    vision_positions: Literal["grid", "row"] = "grid"
    attend_padding: bool = False
    query_positions: bool = False
    key_positions: Literal["sincos", "table"] = "sincos"
    slicing: Literal["adaptive", "square"] = "adaptive"
    pads_uncut: bool = False
    has_preprocessor_config: bool = True
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tags: Mapping[str, str] = field(default_factory=dict)
    slice_tags: Literal["grid", "cell"] = "grid"
    use_image_id: bool = False
    chat_template: str
    image_tag: str | None = None
    released_decoding: Literal["plain", "spaced", "dropped"] = "plain"
    mask_token_zero: bool = False
    max_inp_length: int
    token_ids: TokenIds


RELEASES: dict[str, Release] = {
    release.version: release
    for release in (
        Release(
            version="1.0",
            name="MiniCPM-V 1.0",
            repo_ids=("openbmb/MiniCPM-V",),
            text_model_type="minicpm",
            vision_tower="vit",
            vision_encoder="vit_so400m_patch14_siglip_384.webli",
            query_positions=True,
            key_positions="table",
            slicing="square",
            has_preprocessor_config=False,
            chat_template="minicpm_v.jinja",
            terminators=("</s>",),
            released_decoding="spaced",
            max_new_tokens=2048,
            max_inp_length=2048,
            token_ids=TokenIds(
                vocab_size=122753, image_token_id=0, image_start_id=101, image_end_id=102
            ),
            sampling=Sampling(draws=False, temperature=0.6, repetition_penalty=1.0),
        ),
        Release(
            version="2.0",
            name="MiniCPM-V 2.0",
            repo_ids=("openbmb/MiniCPM-V-2",),
            text_model_type="minicpm",
            vision_tower="vit",
            vision_encoder="vit_so400m_patch14_siglip_384.webli",
            query_positions=True,
            pads_uncut=True,
            has_preprocessor_config=False,
            chat_template="minicpm_v.jinja",
            terminators=("</s>",),
            released_decoding="spaced",
            max_new_tokens=1024,
            max_inp_length=2048,
            token_ids=TokenIds(
                vocab_size=122753,
                image_token_id=0,
                image_start_id=101,
                image_end_id=102,
                slice_start_id=111,
                slice_end_id=112,
            ),
        ),
        Release(
            version="2.5",
            name="MiniCPM-Llama3-V 2.5",
            repo_ids=("openbmb/MiniCPM-Llama3-V-2_5",),
            text_model_type="llama",
            vision_tower="navit",
            vision_positions="row",
            attend_padding=True,
            chat_template="minicpm_llama3_v_2_5.jinja",
            terminators=("<|end_of_text|>", "<|eot_id|>"),
            clean_up_spaces=True,
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
            vision_tower="navit",
            slice_tags="cell",
            use_image_id=True,
            chat_template="minicpm_v_2_6.jinja",
            terminators=("<|im_end|>", "<|endoftext|>"),
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
        Release(
            version="omnilmm-12b",
            model_type="omnilmm",
            name="OmniLMM-12B",
            repo_ids=("openbmb/OmniLMM-12B",),
            text_model_type="mistral",
            vision_tower="vit",
            vision_encoder="eva02_enormous_patch14_clip_224.laion2b_plus",
            query_positions=True,
            key_positions="table",
            slicing="square",
            has_preprocessor_config=False,
            image_mean=(0.48145466, 0.4578275, 0.40821073),
            image_std=(0.26862954, 0.26130258, 0.27577711),
            tags={"im_start": "<im_start>", "im_end": "<im_end>", "unk": "<im_patch>"},
            chat_template="omnilmm.jinja",
            image_tag="<image>",
            terminators=("</s>",),
            released_decoding="dropped",
            max_new_tokens=1024,
            max_inp_length=2048,
            token_ids=TokenIds(
                vocab_size=32009, image_token_id=32000, image_start_id=32001, image_end_id=32002
            ),
            sampling=Sampling(
                top_p=0.9,
                top_k=30,
                temperature=0.6,
                repetition_penalty=1.1,
                num_beams=1,
                beam_repetition_penalty=1.1,
            ),
        ),
    )
}

# Values of `model_type` in the config.json of releases that support images.
VISION_TYPES = frozenset(release.model_type for release in RELEASES.values())

# The bundled model has the architecture of 2.6, and says `"variant": "nano"` in its config.json. It
# is greedy: answers are one word, and sampling would only make them wrong.
NANO_GENERATION: dict[str, Any] = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "max_new_tokens": 512,
}

# Settings of the released `chat()` of the text models; top_k is what transformers adds.
_TEXT_SAMPLING = Sampling(
    top_k=50, temperature=0.3, repetition_penalty=1.0, num_beams=1, beam_repetition_penalty=1.0
)
_TEXT: dict[str, Any] = {
    "stop_texts": ("<AI>", "<用户>"),
    "user_tag": "<用户>",
    "penalise_prompt": True,
    "max_new_tokens": 4096,
    "sampling": _TEXT_SAMPLING,
    "unused_settings": {"do_sample": True, "top_p": 0.8, "temperature": 0.8},
}

TEXT_RELEASES: dict[str, TextRelease] = {
    "2b": TextRelease(
        name="MiniCPM-2B",
        repo_ids=(
            "openbmb/MiniCPM-2B-sft-bf16",
            "openbmb/MiniCPM-2B-sft-fp32",
            "openbmb/MiniCPM-2B-dpo-bf16",
            "openbmb/MiniCPM-2B-dpo-fp16",
            "openbmb/MiniCPM-2B-dpo-fp32",
        ),
        **_TEXT,
    ),
    "1b": TextRelease(name="MiniCPM-1B", repo_ids=("openbmb/MiniCPM-1B-sft-bf16",), **_TEXT),
    "2b-128k": TextRelease(
        name="MiniCPM-2B-128k",
        repo_ids=("openbmb/MiniCPM-2B-128k",),
        terminators=("</s>", "<|im_end|>"),
        **_TEXT | {"user_tag": "<|im_start|>"},
    ),
    "moe-8x2b": TextRelease(
        name="MiniCPM-MoE-8x2B", repo_ids=("openbmb/MiniCPM-MoE-8x2B",), **_TEXT
    ),
}


def model_type_of(config: Mapping[str, Any]) -> str:
    """`model_type` of a `config.json`; released text models leave it to their class's default."""
    given, architectures = config.get("model_type"), config.get("architectures")
    if given:
        return str(given)
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    return "minicpm" if str(first).startswith("MiniCPMFor") else ""


def text_release_of(config: Mapping[str, Any]) -> TextRelease:
    """The row that the `config.json` of a text model belongs to.

    Told apart by what each alone has: experts, positions that stretch, key heads that several query
    heads share; what is left is 2B.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if config.get("num_experts") or config.get("num_local_experts"):
        return TEXT_RELEASES["moe-8x2b"]
    if "dynamic" in (rope.get("type"), rope.get("rope_type")):
        return TEXT_RELEASES["2b-128k"]
    heads = config.get("num_attention_heads")
    if config.get("num_key_value_heads", heads) not in (None, heads):
        return TEXT_RELEASES["1b"]
    return TEXT_RELEASES["2b"]


def release_of(config: Mapping[str, Any]) -> Release:
    """The row that a `config.json` or `preprocessor_config.json` belongs to.

    `version` decides (2.5 says "2.5" in one file and 2.5 in the other). Files older than the field
    are told apart by what else they hold: OmniLMM by its `model_type`; 1.0 and 2.0 by the MiniCPM
    language model or the name of their vision encoder, 2.0 alone by its settings for slices; what
    is left is 2.5.

    Raises:
        ValueError: `version` is not a release this package knows.
    """
    version = config.get("version")
    if version is None and config.get("model_type") == "omnilmm":
        version = "omnilmm-12b"
    elif version is None and ("scale_emb" in config or "vision_encoder" in config):
        version = "2.0" if "slice_mode" in config or "scale_resolution" in config else "1.0"
    version = "2.5" if version is None else str(version)
    if version not in RELEASES:
        known = ", ".join(RELEASES)
        raise ValueError(
            f"Version {version!r} of MiniCPM-V is not known. Known: {known}. "
            "For 4.6 and later, use the classes in transformers itself."
        )
    return RELEASES[version]
