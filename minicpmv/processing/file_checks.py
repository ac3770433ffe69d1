"""Validation of a processor's files: `tokenizer_config.json`, `preprocessor_config.json`.

transformers fills in what these files leave unsaid, and adds tokens that a vocabulary lacks behind
its last one; a file that is missing, cut or of another model then gives other token ids. Here the
files are checked before a tokenizer is built, and the tokenizer is compared with them afterwards.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import TemplateError
from tokenizers import models
from transformers.utils import IMAGE_PROCESSOR_NAME
from transformers.utils.chat_template_utils import _compile_jinja_template

from ..checkpoint.fields import (
    FLAG,
    NAME,
    OBJECT,
    TEXT,
    TEXTS,
    Rule,
    check_fields,
    check_present,
    count,
    damaged,
    is_number,
    number,
    one_of,
)
from ..checkpoint.files import check_whole, read_json_file
from ..checkpoint.hub import Checkpoint
from ..releases import release_of
from .placeholders import RELEASED_TAGS
from .tokenizer_model import read_pieces

TOKENIZER_CONFIG = "tokenizer_config.json"
_SAMPLES = 200  # pieces that are compared between two files of one vocabulary
_PIECES_TRIED = 1000  # of a vocabulary, whether its merges make them
# Merges make every piece of a trained vocabulary; of those that were put together from several, as
# Llama 3's, they miss 0.5 %, and pieces that users defined in SentencePiece need none.
_MOST_UNMADE = 0.05

_IS_TOKEN = Rule(
    lambda value: bool(
        NAME.accepts(value) or (isinstance(value, dict) and NAME.accepts(value.get("content")))
    ),
    "the text of a token",
)
_TOKEN_LIST = Rule(
    lambda value: (
        isinstance(value, list | dict)
        and all(
            _IS_TOKEN.accepts(item)
            for item in (value if isinstance(value, list) else value.values())
        )
    ),
    "a list of tokens",
)
_ADDED_TOKENS = Rule(
    lambda value: (
        isinstance(value, dict)
        and all(key.isdecimal() and isinstance(token, dict) for key, token in value.items())
        and all(_IS_TOKEN.accepts(token) for token in value.values())
    ),
    "tokens by their ids",
)
_TEMPLATE = Rule(
    lambda value: (
        isinstance(value, str)
        or (
            isinstance(value, list)
            and all(isinstance(item, dict) and TEXT.accepts(item.get("template")) for item in value)
        )
    ),
    "the text of a Jinja template",
)
_SIDE = one_of("left", "right", None)
_TOKENIZER = {
    "add_bos_token": FLAG.or_null(),
    "add_eos_token": FLAG.or_null(),
    "add_prefix_space": FLAG.or_null(),
    "added_tokens_decoder": _ADDED_TOKENS,
    "additional_special_tokens": _TOKEN_LIST.or_null(),
    "auto_map": OBJECT.or_null(),
    "bos_token": _IS_TOKEN.or_null(),
    "chat_template": _TEMPLATE.or_null(),
    "clean_up_tokenization_spaces": FLAG.or_null(),
    "eos_token": _IS_TOKEN,
    "errors": TEXT,
    "extra_special_tokens": _TOKEN_LIST.or_null(),
    "legacy": FLAG.or_null(),
    "model_input_names": TEXTS,
    "model_max_length": number(above=0).or_null(),
    "pad_token": _IS_TOKEN.or_null(),
    "padding_side": _SIDE,
    "sp_model_kwargs": OBJECT.or_null(),
    "spaces_between_special_tokens": FLAG.or_null(),
    "split_special_tokens": FLAG.or_null(),
    "tokenizer_class": NAME,
    "truncation_side": _SIDE,
    "unk_token": _IS_TOKEN.or_null(),
    "use_default_system_prompt": FLAG.or_null(),
}
_NO_MERGES = re.compile(rb'"merges"\s*:\s*\[\s*\]')  # without parsing megabytes
_CHANNELS = Rule(
    lambda value: (
        isinstance(value, list | tuple) and len(value) == 3 and all(map(is_number, value))
    ),
    "three finite numbers, one per channel",
)
_DEVIATIONS = Rule(
    lambda value: _CHANNELS.accepts(value) and min(value) > 0,
    "three finite numbers above 0, one per channel",
)
_TAG = Rule(
    lambda value: isinstance(value, str) and re.fullmatch(r"<.+>", value) is not None,
    "a tag such as '<image>'",
)
_IMAGES = {
    "compat": one_of(None, "released"),
    "do_convert_rgb": FLAG.or_null(),
    "do_normalize": FLAG.or_null(),
    "do_pad": FLAG.or_null(),
    "do_rescale": FLAG.or_null(),
    "image_feature_size": count(),
    "image_mean": _CHANNELS.or_null(),
    "image_processor_type": one_of(
        "MiniCPMVImageProcessor", "MiniCPMVImageProcessorPil", "MiniCPMVImageProcessorFast", None
    ),
    "image_size": count().or_null(),
    "image_std": _DEVIATIONS.or_null(),
    "max_slice_nums": count().or_null(),
    "norm_mean": _CHANNELS,
    "norm_std": _DEVIATIONS,
    "patch_size": count(),
    "processor_class": TEXT.or_null(),
    "resample": count(0, 5).or_null(),
    "rescale_factor": number(above=0).or_null(),
    "scale_resolution": count().or_null(),
    "slice_mode": FLAG.or_null(),
    "use_image_id": FLAG.or_null(),
    **dict.fromkeys(RELEASED_TAGS, _TAG),
}


def check_processor_files(checkpoint: Checkpoint) -> None:
    """Check that the settings of a tokenizer and an image processor are valid.

    Raises:
        OSError: there is no `tokenizer_config.json`.
        ValueError: names file and field.
    """
    check_tokenizer_files(checkpoint)
    file = checkpoint.find_file(IMAGE_PROCESSOR_NAME)
    if file is not None:
        check_image_settings(read_json_file(file), _shown(file))


def check_image_settings(settings: Mapping[str, Any], file: str = IMAGE_PROCESSOR_NAME) -> None:
    """Check that the values of a `preprocessor_config.json` are valid.

    Raises:
        ValueError: names file and field.
    """
    check_fields(file, settings, _IMAGES)
    version = settings.get("version")
    if not isinstance(version, str | int | float | None) or isinstance(version, bool):
        raise damaged(file, "version", version, "a release such as 2.6")
    try:
        release_of({"version": version})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def check_tokenizer_files(checkpoint: Checkpoint) -> None:
    """Check that the small files of a tokenizer are there, and their values valid.

    Raises:
        OSError: there is no `tokenizer_config.json`, or a pointer of git-lfs in place of a file.
        ValueError: names file and field.
    """
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"):
        vocabulary = checkpoint.find_file(name)
        if vocabulary is not None:
            check_whole(vocabulary)
    found = checkpoint.find_file(TOKENIZER_CONFIG)
    if found is None:
        raise OSError(
            f"{checkpoint.location!r} has no {TOKENIZER_CONFIG}, and without it text becomes other "
            "token ids. Take this file of the release."
        )
    settings, file = read_json_file(found), _shown(found)
    check_present(file, settings, ("tokenizer_class", "eos_token"), "it decides about token ids")
    check_fields(file, settings, _TOKENIZER)
    templates = settings.get("chat_template") or []
    for template in [templates] if isinstance(templates, str) else templates:
        _check_template(template if isinstance(template, str) else template["template"], file)
    for name in ("added_tokens.json", "special_tokens_map.json"):
        beside = checkpoint.find_file(name)
        if beside is not None:
            read_json_file(beside)


def _check_template(template: str, file: str) -> None:
    try:
        _compile_jinja_template(template)
    except TemplateError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{file}: chat_template is no Jinja template: {reason} Download the file again."
        ) from error


def check_tokenizer(tokenizer: Any, checkpoint: Checkpoint) -> None:
    """Check that a tokenizer gives the ids that the files beside its vocabulary give.

    Raises:
        ValueError: names the token and both ids: the vocabulary is of another model; or its
            merges are lost, all or a part of them.
    """
    _check_merges(tokenizer, checkpoint)
    _check_pieces(tokenizer, checkpoint)
    for file, token, token_id in _named_tokens(checkpoint):
        found = tokenizer.convert_tokens_to_ids(token)
        if found != token_id:
            raise ValueError(
                f"The tokenizer of {checkpoint.location!r} gives {token!r} the id {found}, and "
                f"{file} says {token_id}: its vocabulary is that of another model. Take all "
                "tokenizer files from one release."
            )
    pieces = checkpoint.find_file("tokenizer.model")
    if pieces is None:
        return
    texts = read_pieces(pieces)
    if checkpoint.find_file("tokenizer.json") is None:
        _check_places(texts, checkpoint)
        return
    ids = range(0, len(texts), max(1, len(texts) // _SAMPLES))
    if 2 * sum(tokenizer.convert_ids_to_tokens(i) == texts[i] for i in ids) < len(ids):
        raise ValueError(
            f"tokenizer.json and tokenizer.model of {checkpoint.location!r} are vocabularies of "
            "two models. Take all tokenizer files from one release."
        )


def _check_merges(tokenizer: Any, checkpoint: Checkpoint) -> None:
    """A vocabulary of more than single letters whose merges are lost gives other tokens."""
    file = checkpoint.find_file("tokenizer.json")
    if file is None or not _NO_MERGES.search(file.read_bytes()):
        return
    added = tokenizer.get_added_vocab()
    pieces = [piece for piece in tokenizer.get_vocab() if piece not in added]
    longer = [piece for piece in pieces if len(piece) > 1 and not piece.startswith("<0x")]
    if longer:
        raise ValueError(
            f"tokenizer.json of {checkpoint.location!r} has no merges, and its vocabulary "
            f"{len(longer):,} pieces that merges make, as {min(longer)!r}: text would become "
            "single letters. Take tokenizer.json of the release."
        )


def _check_pieces(tokenizer: Any, checkpoint: Checkpoint) -> None:
    """Pieces of two others are made of their own letters, unless a part of the merges is lost."""
    backend = tokenizer.backend_tokenizer
    model = backend.model
    if checkpoint.find_file("tokenizer.json") is None or not isinstance(model, models.BPE):
        return
    # Such pieces need no merges, or are spelt otherwise than the text that they stand for.
    if model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        return
    if model.dropout:
        return
    added = tokenizer.get_added_vocab()
    size = backend.get_vocab_size(with_added_tokens=False)
    tried, unmade = 0, []
    for token_id in range(0, size, max(1, size // _PIECES_TRIED)):
        piece = backend.id_to_token(token_id)
        if piece is None or len(piece) == 1 or piece in added or piece.startswith("<0x"):
            continue
        tried += 1
        if [token.id for token in model.tokenize(piece)] != [token_id] and any(
            backend.token_to_id(piece[:at]) is not None
            and backend.token_to_id(piece[at:]) is not None
            for at in range(1, len(piece))
        ):
            unmade.append(piece)
    if len(unmade) > _MOST_UNMADE * tried:
        raise ValueError(
            f"tokenizer.json of {checkpoint.location!r}: merges make {tried - len(unmade)} of "
            f"{tried} pieces of its vocabulary that were tried, and not {min(unmade)!r}: a part of "
            "them is lost, and text would become other tokens than the model knows. Take "
            "tokenizer.json of the release."
        )


def _check_places(pieces: list[str], checkpoint: Checkpoint) -> None:
    """Tokens that are added to a vocabulary take no other piece's place, but reserved ones."""
    for file, token, token_id in _named_tokens(checkpoint):
        piece = pieces[token_id] if token_id < len(pieces) else token
        if piece != token and "reserved" not in piece.lower():
            raise ValueError(
                f"tokenizer.model of {checkpoint.location!r} has {piece!r} as token {token_id}, "
                f"and {file} {token!r}: its vocabulary is that of another model. Take all "
                "tokenizer files from one release."
            )


def _named_tokens(checkpoint: Checkpoint) -> Iterator[tuple[str, str, int]]:
    """File, token and id of every token that a file beside the vocabulary names."""
    settings = checkpoint.read_json(TOKENIZER_CONFIG)
    decoder = settings.get("added_tokens_decoder") or {}
    for token_id, token in decoder.items():
        yield TOKENIZER_CONFIG, token["content"], int(token_id)
    added = checkpoint.find_file("added_tokens.json")
    if added is not None:
        for token, token_id in read_json_file(added).items():
            yield "added_tokens.json", token, token_id
    vocabulary = checkpoint.find_file("tokenizer.json")
    if decoder or added is not None or vocabulary is None:
        return
    content = read_json_file(vocabulary)
    known = {token["content"] for token in content.get("added_tokens") or []}
    known |= set((content.get("model") or {}).get("vocab") or ())
    for name in ("eos_token", "bos_token", "pad_token", "unk_token"):
        token = settings.get(name)
        token = token["content"] if isinstance(token, dict) else token
        if token is not None and token not in known:
            raise ValueError(
                f"{TOKENIZER_CONFIG} of {checkpoint.location!r} says {name} {token!r}, which "
                "tokenizer.json does not have. Take all tokenizer files from one release."
            )


def _shown(file: Any) -> str:
    return repr(str(file))
