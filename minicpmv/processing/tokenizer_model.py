"""`tokenizer.model`, a SentencePiece file, as a fast tokenizer that gives the same ids.

The fast one also says where in the text each token came from, which `encoding.py` needs.

Both merge neighbours again and again, best pair first, into the pieces of the vocabulary.
SentencePiece takes the pair whose merged piece has the highest score, and of equal ones the
leftmost. `tokenizers` ranks pairs, no two alike, so pairs that make the same piece are ranked such
that where they overlap, the leftmost comes first.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as schema
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from ..checkpoint.files import check_whole
from .sentencepiece import SPACE

_Piece = schema.ModelProto.SentencePiece  # the kinds of pieces


def fast_tokenizer(
    path: str | PathLike,
    added_tokens: Mapping[int, AddedToken] | None = None,
    *,
    as_llama_fast: bool = False,
) -> Tokenizer:
    """The tokenizer in a SentencePiece file.

    Args:
        added_tokens: by id, from `tokenizer_config.json`. They are cut out of the text first. One
            whose id the file has already takes the place of the piece there; others follow the last
            piece.
        as_llama_fast: as `LlamaTokenizerFast` read such files in 2024: always a space before each
            stretch of text, and user-defined pieces found by merging only.

    Raises:
        ValueError: the file is damaged or of another kind, or ids and tokens contradict each other.
    """
    model = _read(path)
    added_tokens = dict(added_tokens or {})
    pieces = [piece.piece for piece in model.pieces]
    for token_id, token in added_tokens.items():
        if token_id < len(pieces):
            pieces[token_id] = token.content
    vocabulary = {piece: token_id for token_id, piece in enumerate(pieces)}
    if len(vocabulary) < len(pieces):
        twice = next(piece for token_id, piece in enumerate(pieces) if vocabulary[piece] > token_id)
        raise ValueError(
            f"{path} and the added tokens in tokenizer_config.json have {twice!r} twice."
        )
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=_merges(model, vocabulary, with_user_defined=as_llama_fast),
            unk_token=model.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
    )
    prefixed = as_llama_fast or model.normalizer_spec.add_dummy_prefix
    if prefixed and not as_llama_fast and any(p.type == _Piece.USER_DEFINED for p in model.pieces):
        raise ValueError(
            f"{path} has user-defined pieces and puts a space before text; no tokenizer of this "
            "family has both. Fetch the checkpoint's own file."
        )
    replace = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefixed else replace
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, decoders.Strip(content=" ", left=1)] if prefixed else steps
    )
    _add_tokens(tokenizer, model, pieces, added_tokens, with_user_defined=not as_llama_fast)
    return tokenizer


def read_pieces(path: str | PathLike) -> list[str]:
    """The pieces of a SentencePiece file, by id; raises as `fast_tokenizer`."""
    return [piece.piece for piece in _read(path).pieces]


def read_scores(path: str | PathLike) -> dict[str, float]:
    """The score of every piece of a SentencePiece file; raises as `fast_tokenizer`."""
    return {piece.piece: piece.score for piece in _read(path).pieces}


def _read(path: str | PathLike) -> Any:
    model = schema.ModelProto()
    check_whole(Path(path))
    try:
        with open(path, "rb") as file:
            model.ParseFromString(file.read())
    except DecodeError:
        raise ValueError(f"{path} is no SentencePiece file, or damaged; fetch it again.") from None
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    if not model.pieces or kind != "BPE":
        raise ValueError(
            f"{path} holds {len(model.pieces)} SentencePiece pieces of kind {kind}; the tokenizers "
            "of this family are of kind BPE. Fetch the checkpoint's own file."
        )
    normalizer = model.normalizer_spec
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        raise ValueError(
            f"{path} changes text before it is cut (normaliser {normalizer.name!r}); the "
            "tokenizers of this family do not. Fetch the checkpoint's own file."
        )
    return model


def _merges(
    model: Any, vocabulary: Mapping[str, int], *, with_user_defined: bool
) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece, best first."""
    kinds = {_Piece.NORMAL, _Piece.USER_DEFINED} if with_user_defined else {_Piece.NORMAL}
    known = {
        name: token_id
        for name, token_id in vocabulary.items()
        if model.pieces[token_id].type in kinds
    }
    made = sorted(
        (name for name in known if len(name) > 1),
        key=lambda name: model.pieces[known[name]].score,
        reverse=True,
    )
    return [pair for name in made for pair in _pairs(name, known)]


def _pairs(piece: str, known: Mapping[str, int]) -> list[tuple[str, str]]:
    """The two parts of a piece, for each way to cut it into known pieces; order see module."""
    length = len(piece)
    cuts = [at for at in range(1, length) if piece[:at] in known and piece[at:] in known]
    if len(cuts) < 2:
        return [(piece[:at], piece[at:]) for at in cuts]

    def rank(at: int) -> tuple[bool, int, int]:
        # `at`, `length - at`, `at` characters side by side, where the piece begins as it ends: the
        # first pair is the one cut at `at`, the second the one cut at `length - at`.
        begins_as_it_ends = piece[at:] == piece[: length - at]
        return not begins_as_it_ends, known[piece[:at]], known[piece[at:]]

    return [(piece[:at], piece[at:]) for at in sorted(cuts, key=rank)]


def _add_tokens(
    tokenizer: Tokenizer,
    model: Any,
    pieces: list[str],
    added_tokens: Mapping[int, AddedToken],
    *,
    with_user_defined: bool,
) -> None:
    """Let the tokenizer cut out special tokens and user-defined pieces before it merges."""
    cut_out = dict(added_tokens)
    for token_id, piece in enumerate(model.pieces):
        is_special = piece.type in (_Piece.UNKNOWN, _Piece.CONTROL)
        if is_special or (with_user_defined and piece.type == _Piece.USER_DEFINED):
            token = AddedToken(pieces[token_id], normalized=False, special=is_special)
            cut_out.setdefault(token_id, token)
    tokenizer.add_tokens([cut_out[token_id] for token_id in sorted(cut_out)])
    for token_id, token in cut_out.items():
        given = tokenizer.token_to_id(token.content)
        if given != token_id:
            raise ValueError(
                f"tokenizer_config.json gives the token {token.content!r} the id {token_id}, but "
                f"the next free one is {given}: tokenizer.model has {len(pieces)} pieces. The two "
                "files are not of one checkpoint."
            )
