"""A checkpoint of true widths and random weights, written tensor by tensor.

It is loaded by `load` as any other, so quantising, load time and memory are measured too, and
every build of the package can load it. The weights say nothing; only their number and shape count.
"""

import json
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from .. import auto  # noqa: F401 - registers the classes
from ..checkpoint.tensors import Shape, skeleton
from ..checkpoint.token_ids import TAGS
from ..inspection import parameter_shapes
from ..loader import MODEL_CLASSES
from ..processing.placeholders import RELEASED_TAGS
from ..releases import (
    VISION_TYPES,
    Release,
    TextRelease,
    model_type_of,
    release_of,
    text_release_of,
)
from .prompts import WORDS
from .shapes import config_of

_STD = 0.02
_OTHER = "other"  # what is no word; not <unk>, where visual tokens go
# Not a power of two: rows that repeat one another would make features of a random model equal.
_POOL = 4_194_301
_SHARD_BYTES = 2_000_000_000
_TEMPLATE = "{% for message in messages %}{{ '<用户>' + message['content'] + '<AI>' }}{% endfor %}"
_CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def write_checkpoint(folder: Path, shape: str, layers: int | None = None, seed: int = 0) -> int:
    """Write a random model; `layers` decoder layers instead of all. Returns the bytes written.

    Raises:
        OSError: there is no room for it.
    """
    fields = config_of(shape, layers)
    write_small_files(folder, fields)
    return _write_weights(folder, shapes_of(fields), fields["torch_dtype"], seed)


def write_small_files(folder: Path, fields: Mapping[str, Any]) -> None:
    """Everything but the weights of a model with this `config.json`."""
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    kind = model_type_of(fields)
    release = (release_of if kind in VISION_TYPES else text_release_of)(fields)
    _write_tokenizer(folder, fields["vocab_size"], release)
    if isinstance(release, Release) and release.has_preprocessor_config:
        _write_processor(folder, fields, release)
    ends = {"bos_token_id": fields["bos_token_id"], "eos_token_id": fields["eos_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")


def shapes_of(fields: Mapping[str, Any]) -> dict[str, Shape]:
    """Shape of every tensor, by its released name, of a model with this `config.json`."""
    model_class = MODEL_CLASSES[model_type_of(fields)]
    config = model_class.config_class.from_dict(dict(fields))
    return parameter_shapes(skeleton(model_class, config))


def share_of(shape: str, layers: int | None) -> dict[str, int]:
    """Decoder layers and parameters of a model with so many layers, and of the whole release."""
    counts = {}
    for name, number in (("", layers), ("whole_", None)):
        fields = config_of(shape, number)
        sizes = shapes_of(fields).values()
        counts[f"{name}layers"] = fields["num_hidden_layers"]
        counts[f"{name}parameters"] = sum(map(_count, sizes))
    return counts


def bytes_of(shape: str, layers: int | None) -> int:
    """Size of the weight files."""
    fields = config_of(shape, layers)
    width = 4 if fields["torch_dtype"] == "float32" else 2
    return width * sum(map(_count, shapes_of(fields).values()))


def _count(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _write_weights(folder: Path, shapes: Mapping[str, Shape], dtype: str, seed: int) -> int:
    """Weight files and their index. A matrix is normal, a norm 1, a bias 0."""
    number_type = getattr(torch, dtype)
    width = number_type.itemsize
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(_POOL, generator=generator).mul_(_STD).to(number_type)
    ones = torch.ones(1 << 16, dtype=number_type)
    index, total = {}, 0
    shards = list(_shards(shapes, width))
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header: dict[str, Any] = {}
        end = 0
        for name in names:
            start, end = end, end + width * _count(shapes[name])
            place = {"shape": list(shapes[name]), "data_offsets": [start, end]}
            header[name] = {"dtype": _CODES[dtype], **place}
            index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                source = pool
                if len(shapes[name]) == 1:
                    source = ones if name.endswith("weight") else torch.zeros_like(ones)
                _write_numbers(out, source, _count(shapes[name]))
        total += end
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    return total


def _write_numbers(out: Any, source: torch.Tensor, count: int) -> None:
    """`count` numbers, the source again and again."""
    data = source.view(torch.uint8).numpy().tobytes()
    left = count * source.element_size()
    while left > 0:
        left -= out.write(data[: min(left, len(data))])


def _shards(shapes: Mapping[str, Shape], width: int) -> Iterator[list[str]]:
    names, size = list[str](), 0
    for name, shape in shapes.items():
        added = width * _count(shape)
        if names and size + added > _SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += added
    yield names


def _write_tokenizer(folder: Path, size: int, release: TextRelease) -> None:
    """A tokenizer of words, with the tags of the release and as many tokens as the model."""
    is_vision = isinstance(release, Release)
    tags = {**RELEASED_TAGS, **release.tags} if isinstance(release, Release) else {"unk": "<unk>"}
    special = list(dict.fromkeys(["<unk>", "<s>", "</s>", *release.terminators, *tags.values()]))
    vocabulary = _released_places(release, tags, size)
    names = [*special, _OTHER, *dict.fromkeys(WORDS), *(f"w{i}" for i in range(size))]
    free = (name for name in names if name not in vocabulary)
    taken = set(vocabulary.values())
    vocabulary |= {name: i for i, name in zip(_without(taken, size), free, strict=False)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_OTHER))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "MiniCPMVTokenizerFast" if is_vision else "LlamaTokenizerFast",
        "bos_token": "<s>",
        "eos_token": release.terminators[0],
        "pad_token": release.terminators[-1],
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
    }
    if not is_vision:
        settings["chat_template"] = _TEMPLATE.replace("<用户>", release.user_tag)
    text = json.dumps(settings, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _released_places(release: TextRelease, tags: Mapping[str, str], size: int) -> dict[str, int]:
    """Ids of the visual tags where a vocabulary of the released size has them."""
    if not isinstance(release, Release) or release.token_ids.vocab_size != size:
        return {}
    places = {tags[TAGS[field][0]]: getattr(release.token_ids, field) for field in TAGS}
    return {tag: place for tag, place in places.items() if place is not None}


def _without(taken: Container[int], size: int) -> Iterator[int]:
    return (i for i in range(size) if i not in taken)


def _write_processor(folder: Path, fields: Mapping[str, Any], release: Release) -> None:
    settings = {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "max_slice_nums": fields["slice_config"]["max_slice_nums"],
        "scale_resolution": fields["image_size"],
        "patch_size": fields["patch_size"],
        "use_image_id": release.use_image_id,
        "image_feature_size": fields["query_num"],
        "slice_mode": True,
        "norm_mean": list(release.image_mean),
        "norm_std": list(release.image_std),
        "version": float(release.version),
        **RELEASED_TAGS,
    }
    text = json.dumps(settings)
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
