"""The files of a tokenizer, from the vocabulary of a GGUF file.

A vocabulary of bytes becomes `tokenizer.json`; one of SentencePiece becomes `tokenizer.model`,
which this package reads as the released code did.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import short
from ...releases import Release
from ..container import GGUFFile
from .language import token_id

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_CUT_OUT = (CONTROL, USER_DEFINED)
ADDED_SCORE = -1000.0  # of tokens that are no pieces of the SentencePiece file
_DIGITS = {"qwen2": r"\p{N}", "llama-bpe": r"\p{N}{1,3}", "llama3": r"\p{N}{1,3}"}
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ROLES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


def tokenizer_files(file: GGUFFile, release: Release | None, is_small: bool) -> dict[str, bytes]:
    """Name and content of every file of the tokenizer.

    Args:
        release: of a model that supports images; None for text models.
        is_small: whether it is the bundled model, which does not normalise text.

    Raises:
        ValueError: the vocabulary is missing, incomplete, or of a kind that this family has not.
    """
    said = file.metadata
    tokens, types = _texts(file, "tokens"), _numbers(file, "token_type")
    rows = file.info("token_embd.weight").shape[0]
    if len(tokens) != rows or len(types) != rows:
        raise ValueError(
            f"{str(file.path)!r} has {len(tokens):,} tokens, {len(types):,} token types and "
            f"{rows:,} embeddings, which must be as many. Get it again."
        )
    kind = said.get("tokenizer.ggml.model")
    settings = _settings(file, tokens)
    if kind == "gpt2":
        normalises = release is not None and release.version == "2.6" and not is_small
        content = _of_bytes(file, tokens, types, settings, normalises=normalises)
        settings["tokenizer_class"] = "MiniCPMVTokenizerFast"
        files = {"tokenizer.json": json.dumps(content, ensure_ascii=False).encode()}
    elif kind == "llama":
        scores = _numbers(file, "scores")
        if len(scores) != rows:
            raise ValueError(
                f"{str(file.path)!r} has {len(scores):,} scores for {rows:,} tokens. Get it again."
            )
        is_text = release is None
        files = {"tokenizer.model": _of_pieces(file, tokens, types, scores, is_text=is_text)}
        settings |= _settings_of_pieces(tokens, types, scores)
    else:
        raise ValueError(
            f"{str(file.path)!r} has a tokenizer of kind {short(kind)}; read are 'gpt2' and "
            "'llama', which the models of this family have."
        )
    files["tokenizer_config.json"] = json.dumps(settings, ensure_ascii=False).encode()
    return files


def _list(file: GGUFFile, key: str) -> Sequence[Any]:
    found = file.metadata.get(f"tokenizer.ggml.{key}")
    if found is None or isinstance(found, str | int | float):
        raise ValueError(
            f"{str(file.path)!r} has no list tokenizer.ggml.{key}, so text cannot become tokens. "
            "Get it again, or convert the model anew."
        )
    return found


def _texts(file: GGUFFile, key: str) -> Sequence[str]:
    return _of_kind(file, key, is_text=True)


def _numbers(file: GGUFFile, key: str) -> list[Any]:
    return [number.item() for number in _of_kind(file, key, is_text=False)]


def _of_kind(file: GGUFFile, key: str, *, is_text: bool) -> Sequence[Any]:
    found = _list(file, key)
    kind = file.types[f"tokenizer.ggml.{key}"]
    if (kind == "[str]") != is_text:
        raise ValueError(
            f"{str(file.path)!r} has tokenizer.ggml.{key} as {kind}; expected a list of "
            f"{'texts' if is_text else 'numbers'}. Get it again, or convert the model anew."
        )
    return found


def _settings(file: GGUFFile, tokens: Sequence[str]) -> dict[str, Any]:
    """What `tokenizer_config.json` says of any kind."""
    settings: dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
    }
    for name, theirs in _ROLES.items():
        found = token_id(file, theirs)
        if found is not None:
            settings[name] = tokens[found]
    if "unk_token" not in settings and "<unk>" in tokens:
        settings["unk_token"] = "<unk>"
    template = file.metadata.get("tokenizer.chat_template")
    if template:
        settings["chat_template"] = str(template)
    return settings


def _of_bytes(
    file: GGUFFile,
    tokens: Sequence[str],
    types: Sequence[int],
    settings: dict[str, Any],
    *,
    normalises: bool,
) -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    split = file.metadata.get("tokenizer.ggml.pre")
    if split not in _DIGITS:
        raise ValueError(
            f"{str(file.path)!r} splits text by {short(split)}; known are {', '.join(_DIGITS)}, "
            "which the models of this family have."
        )
    merges = list(_texts(file, "merges"))
    if not merges:
        raise ValueError(
            f"{str(file.path)!r} has an empty list tokenizer.ggml.merges, so text would become "
            "single bytes. Get it again, or convert the model anew."
        )
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    added = [
        _added(number, token, special=types[number] == CONTROL)
        for number, token in enumerate(tokens)
        if types[number] in _CUT_OUT
    ]
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    is_llama = split != "qwen2"
    processor: dict[str, Any] = {**levels, "trim_offsets": False, "use_regex": False}
    begins = bool(file.metadata.get("tokenizer.ggml.add_bos_token", is_llama))
    if begins and "bos_token" in settings:
        bos = settings["bos_token"]
        processor = {"type": "Sequence", "processors": [processor, _begun(bos, tokens.index(bos))]}
    pattern = {"Regex": _SPLIT.replace("DIGITS", _DIGITS[split])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if normalises else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False},
                {**levels, "use_regex": False},
            ],
        },
        "post_processor": processor,
        "decoder": {**levels, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": is_llama,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _added(number: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **flags, "special": special}


def _begun(bos: str, number: int) -> dict[str, Any]:
    """The step that puts the token of the beginning before a text."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }


def _of_pieces(
    file: GGUFFile,
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    *,
    is_text: bool,
) -> bytes:
    """The content of `tokenizer.model`."""
    from sentencepiece import sentencepiece_model_pb2 as schema

    model = schema.ModelProto()
    for number, token in enumerate(tokens):
        model.pieces.add(piece=token, score=scores[number], type=types[number])
    unknown = file.metadata.get("tokenizer.ggml.unknown_token_id")
    model.trainer_spec.model_type = schema.TrainerSpec.ModelType.BPE
    model.trainer_spec.byte_fallback = BYTE in types
    model.trainer_spec.vocab_size = len(tokens)
    model.trainer_spec.unk_piece = tokens[unknown] if unknown is not None else "<unk>"
    has_space = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = has_space or is_text
    model.normalizer_spec.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def _settings_of_pieces(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> Mapping[str, Any]:
    """What `tokenizer_config.json` says beside `tokenizer.model`: tokens that are cut out."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = {
        str(number): {"content": token, **flags, "special": types[number] != USER_DEFINED}
        for number, token in enumerate(tokens)
        if types[number] in (UNKNOWN, CONTROL)
        or (types[number] == USER_DEFINED and scores[number] == ADDED_SCORE)
    }
    return {
        "tokenizer_class": "LlamaTokenizerWrapper",
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": added,
    }
