"""MiniCPM's language models in the layout of Llama or Mixtral, and back.

MiniCPM is a Llama with three scalings in its `forward`: embeddings times `scale_emb`, each
branch of a layer times `scale_depth / sqrt(num_layers)`, and the last hidden state divided by
`hidden_size / dim_model_base`. Multiplied into the weights (`llama.py`), code made for Llama
gives the same logits; with experts, code made for Mixtral. Every product is computed in float32
and kept in the checkpoint's dtype.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from ..checkpoint.files import parse_size, read_json_file
from ..checkpoint.hub import Checkpoint
from ..checkpoint.weights import WeightFiles, write_shards
from ..errors import ArgumentError
from .folders import check_out, write_json, written_whole
from .llama import (
    ARCHITECTURES,
    Factors,
    Layout,
    Source,
    check_source,
    plan_moves,
    target_config,
    target_layout,
    was_tied,
)
from .tensors import check_finite

_COPIED = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
# Of the releases, for those that bring none: the language models of MiniCPM-V 1.0 and 2.0.
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<用户>' ~ message.content | trim ~ '<AI>' if message.role == 'user'"
    " else message.content | trim }}"
    "{%- endfor -%}"
)


@dataclass(frozen=True)
class Converted:
    """What was written: the folder, its `architectures` entry, files and bytes of weights."""

    folder: Path
    architecture: str
    num_files: int
    num_bytes: int
    is_tied: bool


def convert(
    model: str | Path,
    out: str | Path,
    to: Layout,
    *,
    scale_emb: float | None = None,
    scale_depth: float | None = None,
    dim_model_base: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = "2GB",
    on_progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write a checkpoint in another layout; `out` appears only when it is whole.

    Args:
        model: a folder, or a name on the hub: a MiniCPM text model, MiniCPM-V 1.0 or 2.0 (of which
            the language model is taken), a Llama or a Mixtral.
        to: "llama" writes Mixtral's layout when the model has experts.
        scale_emb, scale_depth, dim_model_base: only to "minicpm"; as config.json of the source
            says, else those of the releases.
        overwrite: replace `out` when it is a model's folder.
        max_shard_size: the most bytes of a weight file; about as much memory is needed.
        on_progress: called with the number of tensors written, and of all.

    Raises:
        ValueError: the model cannot be converted, or an argument has no effect.
        OSError: a file is missing or damaged, `out` is there already, or the disk is full.
    """
    out = Path(out)
    scalings = {
        "scale_emb": scale_emb,
        "scale_depth": scale_depth,
        "dim_model_base": dim_model_base,
    }
    given = {name: value for name, value in scalings.items() if value is not None}
    shard_size = parse_size(max_shard_size)
    checkpoint = Checkpoint.find(model, revision=revision)
    folder = checkpoint.download()
    check_out(out, folder, overwrite)
    checkpoint.file("config.json")
    checkpoint.check()
    source = Source.read(folder)
    target = target_layout(source, to, str(model))
    if target != "minicpm" and given:
        names = ", ".join(f"`{name}`" for name in given)
        raise ArgumentError(f"{names} has no effect: config.json of {str(model)!r} says it.")
    factors = Factors.of(source, given)

    with ExitStack() as stack:
        weights = stack.enter_context(WeightFiles(checkpoint.weight_files()))
        check_source(source, weights, str(model))
        is_tied = target == "minicpm" and was_tied(source, weights, factors)
        moves = plan_moves(source, target, factors, is_tied)
        dtypes = {move.source: weights.dtypes[source.prefix + move.source] for move in moves}
        outlines = {
            move.name: torch.empty(
                weights.shapes[source.prefix + move.source],
                dtype=dtypes[move.source],
                device="meta",
            )
            for move in moves
        }
        num_bytes = sum(outline.nbytes for outline in outlines.values())
        unfinished = stack.enter_context(written_whole(out, num_bytes))
        by_name = {move.name: move for move in moves}

        def make(name: str) -> torch.Tensor:
            move = by_name[name]
            tensor = weights[source.prefix + move.source]
            if move.multiply == move.divide:
                made = tensor.clone()  # those of a .bin file may share their memory
            else:
                made = (tensor.float() * move.multiply / move.divide).to(tensor.dtype)
            check_finite(name, made, weights.file_of(source.prefix + move.source))
            return made

        for done, _ in enumerate(write_shards(unfinished, outlines, make, shard_size), 1):
            if on_progress is not None:
                on_progress(done, len(moves))

        dtype = str(dtypes["model.embed_tokens.weight"]).removeprefix("torch.")
        config = target_config(source, target, factors, is_tied) | {"torch_dtype": dtype}
        with checkpoint.naming_damage():
            _copy_small_files(folder, unfinished, target)
        num_files = len(list(unfinished.glob("*.safetensors")))
        write_json(unfinished / "config.json", config)
    return Converted(out, ARCHITECTURES[target], num_files, num_bytes, is_tied)


def _copy_small_files(folder: Path, out: Path, target: Layout) -> None:
    for name in _COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if target != "minicpm" and (out / "tokenizer_config.json").is_file():
        _write_stock_tokenizer(folder, out)


def _write_stock_tokenizer(folder: Path, out: Path) -> None:
    """Let transformers alone give the ids of the released tokenizer.

    Its own LlamaTokenizer does not: it passes over parts of tokenizer.json, and takes a space at
    the beginning of a text for the one that it puts there itself.
    """
    if not (out / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))
    settings = read_json_file(out / "tokenizer_config.json")
    settings.pop("auto_map", None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if not (out / "chat_template.jinja").is_file():
        settings.setdefault("chat_template", _CHAT_TEMPLATE)
    write_json(out / "tokenizer_config.json", settings)
