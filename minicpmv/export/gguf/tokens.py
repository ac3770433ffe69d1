"""The vocabulary and the chat template as llama.cpp reads them.

Two kinds of tokenizers are in the family: pairs of bytes, merged in the order of a table (2.5, 2.6,
nano), and SentencePiece (all others), which merges the neighbours whose joint piece has the highest
score. Where only `tokenizer.json` is left of the latter, as trainers save it, scores are made of
the order of its merges, which gives the same tokens.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...gguf.values import Typed, Value
from ...processing.tokenizer_model import read_scores
from .source import Source

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# How text is split before bytes are merged, told by a part of the pattern, in llama.cpp's names.
_SPLITS = {r"|\p{N}{1,3}|": "llama-bpe", r"|\p{N}|": "qwen2"}
# Of our templates: the macro that writes a message of several blocks, which llama.cpp joins itself,
# and the marks of what is trained, which only transformers knows.
_BLOCKS = re.compile(r"\{%-? macro render\(content\).*?endmacro -?%\}", re.DOTALL)
_TRAINED = re.compile(r"\{%(-?)\s*generation\s*(-?)%\}")
_TRAINED_END = re.compile(r"\{%(-?)\s*endgeneration\s*(-?)%\}")
_ADDED_SCORE, _HOLE_SCORE = -1000.0, -10000.0


@dataclass
class Vocabulary:
    """Tokens by id, as the file lists them.

    Fields:
        kind: "gpt2" (bytes) or "llama" (SentencePiece).
        scores: of SentencePiece alone; merges, split: of bytes alone.
        notes: where llama.cpp gives other tokens than the released tokenizer.
    """

    kind: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    split: str = "default"
    puts_space_in_front: bool = False
    notes: list[str] = field(default_factory=list)


def read_vocabulary(source: Source) -> Vocabulary:
    """The vocabulary of a checkpoint, one token for every row of its embeddings.

    Raises:
        ValueError: llama.cpp has no such tokenizer.
    """
    tokenizer = source.tokenizer
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    model, size = written["model"], source.config.get_text_config().vocab_size
    if model["type"] != "BPE":
        raise ValueError(
            f"tokenizer.json of {source.name!r} has a model of type {model['type']!r}; llama.cpp "
            "reads BPE, of bytes or of SentencePiece. Take tokenizer.json of the release."
        )
    pieces: dict[int, str] = {token_id: piece for piece, token_id in model["vocab"].items()}
    tokens = [pieces.get(token_id, f"[PAD{token_id}]") for token_id in range(size)]
    types = [NORMAL if token_id in pieces else UNUSED for token_id in range(size)]
    if model.get("byte_fallback"):
        found = _sentencepiece(source.folder, written, tokens, types)
    else:
        found = _bytes(source.name, written, tokens, types)
    for token in written["added_tokens"]:
        token_id, text = token["id"], token["content"]
        found.tokens[token_id] = text
        if found.types[token_id] == UNKNOWN:
            continue
        if found.scores and found.types[token_id] not in (CONTROL, USER_DEFINED):
            found.scores[token_id] = _ADDED_SCORE
        looks_special = text.startswith("<|") and text.endswith("|>")
        found.types[token_id] = CONTROL if token["special"] or looks_special else USER_DEFINED
    return found


def _bytes(
    name: str, written: Mapping[str, Any], tokens: list[str], types: list[int]
) -> Vocabulary:
    found = Vocabulary("gpt2", tokens, types)
    found.merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in written["model"]["merges"]
    ]
    patterns = list(_patterns(written.get("pre_tokenizer")))
    found.split = next((s for part, s in _SPLITS.items() if any(part in p for p in patterns)), "")
    if not found.split:
        raise ValueError(
            f"pre_tokenizer in tokenizer.json of {name!r} splits text by "
            f"{' '.join(patterns)[:80]!r}, which is none of the ways known here "
            f"({', '.join(_SPLITS.values())}), so llama.cpp would give other tokens. Take "
            "tokenizer.json of the release."
        )
    if written.get("normalizer"):
        kind = written["normalizer"].get("type")
        found.notes.append(
            f"llama.cpp does not normalise text ({kind}): letters with separate accents get other "
            "tokens."
        )
    return found


def _patterns(step: Mapping[str, Any] | None) -> Iterator[str]:
    """The regular expressions of a pre-tokenizer."""
    if not step:
        return
    for inner in step.get("pretokenizers", []):
        yield from _patterns(inner)
    pattern = step.get("pattern") or {}
    yield from pattern.values()


def _sentencepiece(
    folder: Path, written: Mapping[str, Any], tokens: list[str], types: list[int]
) -> Vocabulary:
    found = Vocabulary("llama", tokens, types)
    vocabulary = written["model"]["vocab"]
    scores = _scores(folder / "tokenizer.model", written["model"])
    found.scores = [scores.get(piece, 0.0) for piece in tokens]
    found.puts_space_in_front = '"Prepend"' in json.dumps(written.get("normalizer"))
    for token_id, piece in enumerate(tokens):
        if types[token_id] == UNUSED:
            found.scores[token_id] = _HOLE_SCORE
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            types[token_id] = BYTE
    unknown = vocabulary.get(written["model"].get("unk_token"))
    if unknown is not None:
        types[unknown] = UNKNOWN
    return found


def _scores(path: Path, model: Mapping[str, Any]) -> dict[str, float]:
    """By piece. Those of the file where it is there and says what `tokenizer.json` says."""
    ranks: dict[str, float] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, float(-rank))
    if not path.is_file():
        lowest = -float(len(model["merges"]))
        return {piece: ranks.get(piece, lowest) for piece in model["vocab"]}
    scores = read_scores(path)
    kept = {piece: scores[piece] for piece in ranks if piece in scores}
    order = sorted(kept, key=lambda piece: ranks[piece], reverse=True)
    in_order = all(kept[a] >= kept[b] for a, b in pairwise(order))
    if len(kept) == len(ranks) and in_order:
        return scores
    lowest = -float(len(model["merges"]))
    return {piece: ranks.get(piece, lowest) for piece in model["vocab"]}


def token_metadata(source: Source, found: Vocabulary) -> dict[str, Value]:
    """The vocabulary by llama.cpp's keys, what begins and ends a text, and the chat template."""
    tokenizer = source.tokenizer
    ends = terminators(source)
    keys: dict[str, Value] = {
        "model": found.kind,
        "pre": found.split,
        "tokens": found.tokens,
        "token_type": Typed(found.types, "i32"),
    }
    if found.kind == "gpt2":
        keys["merges"] = Typed(found.merges, "str")
    else:
        keys["scores"] = Typed(found.scores, "f32")
        keys["add_space_prefix"] = found.puts_space_in_front
    begins = _begins(tokenizer)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends[0],
        "eot_token_id": ends[1] if len(ends) > 1 else None,
        "padding_token_id": tokenizer.pad_token_id,
        "unknown_token_id": tokenizer.unk_token_id,
    }
    keys |= {name: token_id for name, token_id in ids.items() if token_id is not None}
    keys |= {"add_bos_token": begins, "add_eos_token": False}
    metadata: dict[str, Value] = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    metadata["tokenizer.chat_template"] = chat_template(source)
    return metadata


def terminators(source: Source) -> list[int]:
    """Ids that end an answer, the tokenizer's own end first."""
    tokenizer, release = source.tokenizer, source.processor.release
    vocabulary = tokenizer.get_vocab()
    texts = [*release.terminators, tokenizer.eos_token]
    if tokenizer.eos_token in release.terminators:
        texts.insert(0, tokenizer.eos_token)
    ids = [vocabulary[text] for text in dict.fromkeys(texts) if text in vocabulary]
    also: list[Any] = []
    for fields in (source.generation, source.fields):
        written = fields.get("eos_token_id")
        also += written if isinstance(written, list) else [written]
    return list(dict.fromkeys([*ids, *(i for i in also if isinstance(i, int))]))


def _begins(tokenizer: Any) -> bool:
    """Whether a text is encoded with the token of its beginning."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def chat_template(source: Source) -> str:
    """The template of the checkpoint, for messages whose content is text."""
    template = getattr(source.processor, "chat_template", None) or source.tokenizer.chat_template
    template = _BLOCKS.sub("{%- macro render(content) -%}{{ content }}{%- endmacro -%}", template)
    template = _TRAINED.sub(r"{%\1 if true \2%}", template)
    return _TRAINED_END.sub(r"{%\1 endif \2%}", template)
