"""What a checkpoint is, read from its small files and the headers of its weights.

The model is built without memory for its parameters, so the largest release takes seconds.
"""

import math
from collections import Counter
from typing import Any

from .chat import context_length
from .checkpoint.consistency import find_mismatches
from .checkpoint.files import check_tokenizer
from .checkpoint.headers import Headers, stored_bytes
from .checkpoint.hub import Checkpoint
from .checkpoint.tensors import Shape, describe, differences, skeleton
from .checkpoint.weights import all_headers
from .devices import parse_device
from .export.llama import tensor_shapes
from .gguf.reading.model import GGUFModel, of_fields
from .kernels import library, why_not
from .loader import load_processor, model_class, precision_of, read_config, readable_errors
from .model.generation_checks import check_generation_config
from .model.header_checks import FLOAT_KINDS, check_counts, wrong_kinds
from .model.size_hints import config_hints
from .precision import dtype_name
from .processing.text import TextProcessor
from .quantization import as_dense, weight_bytes

# By the first words of released tensor names; what is left is the language model.
PARTS = {
    "vision tower": ("vpm.", "model.vision_tower."),
    "resampler": ("resampler.", "model.resampler."),
    "language model": ("",),
}
BYTES = {"float32": 4, "bfloat16": 2}


def inspect(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything `minicpmv info` shows, as plain data.

    The weights of a folder are compared with the model by name and shape; those of the hub only
    where the files are kept on this disk.

    Raises:
        OSError: a file is missing, or damaged.
        ValueError: a file is damaged, or the release is not known.
    """
    with readable_errors(checkpoint):
        fields = read_config(checkpoint)
        config = model_class(fields).config_class.from_dict(fields)
        tokenizer = checkpoint.find_file("tokenizer.json")
        if tokenizer is not None:
            check_tokenizer(tokenizer)
        check_generation_config(checkpoint)
        processor = load_processor(checkpoint, fields)
        gguf = of_fields(fields)
        weights = _headers(checkpoint) if gguf is None else _headers_of(gguf)
        check_counts(config, weights or (), checkpoint.location)
        device = parse_device("auto")
        precision = precision_of(checkpoint, fields, device)
    empty = skeleton(model_class(fields), config)
    shapes = parameter_shapes(empty)
    problems = find_mismatches(config, processor)
    packed_as = None
    if weights is not None:
        dense, packed_as = as_dense(weights, shapes)
        if gguf is not None:
            packed_as = " and ".join(dict.fromkeys(gguf.stored_as.values()))
        problems += _tensor_mismatches(config, shapes, dense)
        if packed_as is None:
            problems += _without_weights(shapes, weights)

    sizes = count_parameters(shapes)
    total = sum(sizes.values())
    memory = {dtype: total * width for dtype, width in BYTES.items()}
    if gguf is not None:
        memory["GGUF"] = gguf.num_bytes
    elif weights is not None and packed_as in ("int4", "int8"):
        memory[packed_as] = stored_bytes(weights)
    else:
        memory |= {bits: weight_bytes(empty, bits) for bits in ("int8", "int4")}
    summary = None if weights is None else _summary(weights) | {"packed_as": packed_as}
    if gguf is not None and summary is not None:
        summary["here"] = gguf_here(device.type, dtype_name(precision.dtype))
    return {
        "model": checkpoint.name,
        "release": processor.release.name,
        "version": getattr(processor.release, "version", None),
        "parameters": {**sizes, "total": total},
        "memory_bytes": memory,
        "precision": {
            "device": device.type,
            "dtype": dtype_name(precision.dtype),
            "reason": precision.reason,
        },
        "shapes": _shapes_of_parts(config),
        "weights": summary,
        "slicing": _slicing(processor),
        "special_tokens": _special_tokens(processor),
        "mismatches": problems,
    }


def _headers(checkpoint: Checkpoint) -> Headers | None:
    """Of the weights on this disk; None where they are not all there."""
    kept = checkpoint.kept_weight_files()
    if checkpoint.is_folder and not kept:
        checkpoint.weight_files()  # names what is missing
    return all_headers(kept) if kept else None


def gguf_here(device: str, dtype: str) -> str:
    """What becomes of a GGUF file's quantised matrices on a kind of device."""
    if device != "cpu":
        return f"widened to {dtype}, as on every {device} device: packed they run on a CPU alone"
    if library() is None:
        return f"widened to {dtype} but Q4_0 and Q8_0, for want of compiled kernels: {why_not()}"
    return "packed, as in the file"


def _headers_of(gguf: GGUFModel) -> Headers:
    """Of GGUF files, by the names of the model's tensors."""
    return {
        name: (recipe.shape, "mixed" if recipe.type is None else recipe.type.name)
        for name, recipe in gguf.recipes().items()
    }


def parameter_shapes(model: Any) -> dict[str, Shape]:
    """Shape of every parameter under its released name."""
    config = model.config
    if config.model_type == "mixtral":  # transformers joins the experts, and files do not
        is_tied = config.tie_word_embeddings
        return tensor_shapes(config, "mixtral", config.num_local_experts, is_tied)
    return {model.released_name(name): tuple(p.shape) for name, p in model.named_parameters()}


def count_parameters(shapes: dict[str, Shape]) -> dict[str, int]:
    """Numbers in each part of the model."""
    counts = dict.fromkeys(PARTS, 0)
    for name, shape in shapes.items():
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        counts[part] += math.prod(shape)
    return {part: count for part, count in counts.items() if count}


def _tensor_mismatches(config: Any, shapes: dict[str, Shape], weights: Headers) -> list[str]:
    """How the tensors of the files differ from the model's parameters; empty when they do not.

    With tied embeddings the files may hold the matrix once or twice.
    """
    found = {name: shape for name, (shape, _) in weights.items()}
    twice = ("llm.lm_head.weight", "lm_head.weight") if config.tie_word_embeddings else ()
    missing, unexpected, mismatched = differences(shapes, found, twice)
    lines = [f"the weights: {phrase}" for phrase in describe(missing, unexpected, mismatched)]
    if lines:
        pairs = [(name, found[name], shapes[name]) for name in shapes.keys() & found.keys()]
        wrong = [pair for pair in pairs if tuple(pair[1]) != tuple(pair[2])]
        lines += [f"config.json: {hint}" for hint in config_hints(config, found, wrong)]
    return lines


def _without_weights(shapes: dict[str, Shape], weights: Headers) -> list[str]:
    """Tensors of the model that hold whole numbers or flags in the files."""
    wrong = [name for name in shapes if name in weights and weights[name][1] not in FLOAT_KINDS]
    return [wrong_kinds(wrong)] if wrong else []


def _shapes_of_parts(config: Any) -> dict[str, dict[str, Any]]:
    text: Any = config.get_text_config()
    language_model = {
        "type": text.model_type,
        "layers": text.num_hidden_layers,
        "hidden": text.hidden_size,
        "heads": text.num_attention_heads,
        "key_value_heads": text.num_key_value_heads,
        "mlp": text.intermediate_size,
        "vocabulary": text.vocab_size,
        "context": context_length(config),
    }
    experts = getattr(text, "num_experts", 0) or getattr(text, "num_local_experts", 0)
    if experts:
        language_model["experts"] = experts
    if text is config:
        return {"language model": language_model}
    vision = config.vision_config
    return {
        "vision tower": {
            "layers": vision.num_hidden_layers - bool(config.drop_vision_last_layer),
            "hidden": vision.hidden_size,
            "heads": vision.num_attention_heads,
            "mlp": vision.intermediate_size,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
        },
        "resampler": {"queries": config.query_num, "hidden": text.hidden_size},
        "language model": language_model,
    }


def _slicing(processor: Any) -> dict[str, int] | None:
    """The settings that decide how pictures are cut; None for a text model."""
    names = ("scale_resolution", "max_slice_nums", "image_size", "patch_size", "image_feature_size")
    if isinstance(processor, TextProcessor):
        return None
    settings = {name: getattr(processor.image_processor, name) for name in names}
    return {name: value for name, value in settings.items() if value is not None}


def _special_tokens(processor: Any) -> dict[str, int | None]:
    """Ids of the strings that have a meaning of their own; None for one the tokenizer lacks."""
    if isinstance(processor, TextProcessor):
        tokens = [processor.tokenizer.bos_token]
    else:
        tokens = processor.image_processor.tags_for()
    tokens = [*tokens, *processor.release.terminators]
    vocabulary = processor.tokenizer.get_vocab()
    return {token: vocabulary.get(token) for token in tokens}


def _summary(weights: Headers) -> dict[str, Any]:
    dtypes = Counter(dtype for _, dtype in weights.values())
    return {"tensors": len(weights), "dtypes": [dtype for dtype, _ in dtypes.most_common()]}
