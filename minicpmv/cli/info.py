"""`minicpmv info`: what a model is, read from its small files and the headers of its weights.

The model is built without memory for its parameters, so the largest release takes seconds.
"""

import argparse
import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from .model_files import locate, read_json
from .slice import slice_limits

DESCRIPTION = """\
Show what a model is made of, and whether its files agree with each other.

The exit code is 1 when they do not. No weights are loaded; those of a folder are compared with the
model by name and shape.
"""

# By the first words of released tensor names; what is left is the language model.
PARTS = {
    "vision tower": ("vpm.", "model.vision_tower."),
    "resampler": ("resampler.", "model.resampler."),
    "language model": ("",),
}
BYTES = {"float32": 4, "bfloat16": 2}
STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}

Headers = dict[str, tuple[tuple[int, ...], str]]


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "info", usage="minicpmv info [options] [MODEL]", description=DESCRIPTION
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="nano",
        help="folder, name on the hub, or nano (the default)",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    report = inspect(args.model, args.revision)
    print(json.dumps(report, ensure_ascii=False) if args.json else as_text(report))
    return 1 if report["find_mismatches"] else 0


def inspect(model: str, revision: str | None = None) -> dict[str, Any]:
    """Everything `minicpmv info` shows, as plain data.

    Raises:
        OSError: there is no such model, or a file of it is missing.
        ValueError: a file is damaged, or the release is not known.
    """
    from minicpmv.checkpoint.consistency import find_mismatches
    from minicpmv.loader import MODEL_CLASSES, load_processor, read_config
    from minicpmv.quantization import as_dense, weight_bytes
    from minicpmv.releases import model_type_of

    location = locate(model, revision)
    hub: dict[str, Any] = {"revision": revision} if revision else {}
    read_json(location, "config.json", revision)  # for a clear error when missing or damaged
    fields = read_config(location, **hub)
    config = MODEL_CLASSES[model_type_of(fields)].config_class.from_dict(fields)
    for name, check in (
        ("preprocessor_config.json", lambda path: read_json(location, path.name, revision)),
        ("tokenizer.json", _check_tokenizer),
    ):
        if (Path(location) / name).is_file():
            check(Path(location) / name)
    processor = load_processor(location, fields, **hub)
    empty = skeleton(config)
    shapes = parameter_shapes(empty)
    folder = Path(location)
    weights = read_headers(folder) if folder.is_dir() else None
    problems = find_mismatches(config, processor)
    packed_as = None
    if weights is not None:
        dense, packed_as = as_dense(weights, shapes)
        problems += _misfits(shapes, dense, bool(config.tie_word_embeddings))

    sizes = count_parameters(shapes)
    total = sum(sizes.values())
    memory = {dtype: total * width for dtype, width in BYTES.items()}
    if weights is not None and packed_as in ("int4", "int8"):
        memory[packed_as] = _stored_bytes(weights)
    else:
        memory |= {bits: weight_bytes(empty, bits) for bits in ("int8", "int4")}
    return {
        "model": model,
        "release": processor.release.name,
        "version": getattr(processor.release, "version", None),
        "parameters": {**sizes, "total": total},
        "memory_bytes": memory,
        "shapes": _shapes_of_parts(config),
        "weights": None if weights is None else _summary(weights) | {"packed_as": packed_as},
        "slicing": _slicing(processor),
        "special_tokens": _special_tokens(processor),
        "find_mismatches": problems,
    }


def _slicing(processor: Any) -> dict[str, int] | None:
    """The settings that decide how pictures are cut; None for a text model."""
    from minicpmv.processing.text import TextProcessor

    names = ("scale_resolution", "max_slice_nums", "image_size", "patch_size", "image_feature_size")
    if isinstance(processor, TextProcessor):
        return None
    settings = {name: getattr(processor.image_processor, name) for name in names}
    return {name: value for name, value in settings.items() if value is not None}


def _shapes_of_parts(config: Any) -> dict[str, dict[str, Any]]:
    from minicpmv.chat import context_length

    text: Any = config.get_text_config()
    shapes = {
        "language model": {
            "type": text.model_type,
            "layers": text.num_hidden_layers,
            "hidden": text.hidden_size,
            "heads": text.num_attention_heads,
            "key_value_heads": text.num_key_value_heads,
            "mlp": text.intermediate_size,
            "experts": getattr(text, "num_experts", 0) or getattr(text, "num_local_experts", 0),
            "vocabulary": text.vocab_size,
            "context": context_length(config),
        },
    }
    if not shapes["language model"]["experts"]:
        del shapes["language model"]["experts"]
    if text is config:
        return shapes
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
        **shapes,
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{report['model']}: {report['release']}", ""]
    for part, count in report["parameters"].items():
        shape = report["shapes"].get(part, {})
        facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shape.items())
        lines.append(f"{part:15}{count:>15,}  {facts}".rstrip())
    memory = (f"{_in_units(size)} as {dtype}" for dtype, size in report["memory_bytes"].items())
    lines += ["", f"{'memory':15}{', '.join(memory)}"]
    weights = report["weights"]
    if weights:
        packed = f", packed as {weights['packed_as']}" if weights["packed_as"] else ""
        dtypes = ", ".join(weights["dtypes"])
        lines.append(f"{'weights':15}{weights['tensors']} tensors, {dtypes}{packed}")
    else:
        lines.append(f"{'weights':15}not here as safetensors, so not compared with the model")
    slicing = report["slicing"]
    if slicing is None:
        lines.append(f"{'pictures':15}none: it reads text only")
    else:
        limits = slice_limits(
            slicing.get("scale_resolution"),
            slicing.get("max_slice_nums"),
            slicing.get("image_size"),
        )
        lines.append(f"{'pictures':15}{limits}, {slicing['image_feature_size']} tokens per slice")
    lines += ["", "special tokens"]
    lines += [f"  {token:22}{index}" for token, index in report["special_tokens"].items()]
    problems = report["find_mismatches"]
    lines += ["", "The files disagree:" if problems else "The files agree with each other."]
    lines += [f"  {problem}" for problem in problems]
    return "\n".join(lines)


def _in_units(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def read_headers(folder: Path) -> Headers | None:
    """Shape and dtype of every tensor in a folder's safetensors files; the data is not read.

    None where the weights are in PyTorch's own format, which has no headers.

    Raises:
        OSError: there is no such file.
        ValueError: a file is cut short or damaged.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif not (folder / names[0]).is_file() and list(folder.glob("pytorch_model*.bin")):
        return None
    tensors = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"The model folder {str(folder)!r} has no {name}.")
        with path.open("rb") as file:
            # Eight bytes with the length of the header, the header as JSON, then the data.
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 0 < length < path.stat().st_size:
                raise ValueError(f"{str(path)!r} is not a safetensors file.")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        size, announced = path.stat().st_size, 8 + length + end
        if size != announced:
            raise ValueError(
                f"{str(path)!r} has {size} bytes; its header announces {announced}. "
                "Download it again."
            )
        for tensor, entry in header.items():
            tensors[tensor] = (tuple(entry["shape"]), entry["dtype"])
    return tensors


def skeleton(config: Any) -> Any:
    """The model, without memory for its parameters."""
    import torch

    from minicpmv.loader import MODEL_CLASSES

    with torch.device("meta"):
        return MODEL_CLASSES[config.model_type](config)


def parameter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter under its released name."""
    from minicpmv.export.llama import tensor_shapes

    config = model.config
    if config.model_type == "mixtral":  # transformers joins the experts, and files do not
        is_tied = config.tie_word_embeddings
        return tensor_shapes(config, "mixtral", config.num_local_experts, is_tied)
    return {model.released_name(name): tuple(p.shape) for name, p in model.named_parameters()}


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Numbers in each part of the model."""
    counts = dict.fromkeys(PARTS, 0)
    for name, shape in shapes.items():
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        counts[part] += math.prod(shape)
    return {part: count for part, count in counts.items() if count}


def _check_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{str(path)!r} is not a tokenizer file: {error}") from error


def _special_tokens(processor: Any) -> dict[str, int | None]:
    """Ids of the strings that have a meaning of their own; None for one the tokenizer lacks."""
    from minicpmv.processing.text import TextProcessor

    if isinstance(processor, TextProcessor):
        tokens = [processor.tokenizer.bos_token]
    else:
        tokens = processor.image_processor.tags_for()
    tokens = [*tokens, *processor.release.terminators]
    vocabulary = processor.tokenizer.get_vocab()
    return {token: vocabulary.get(token) for token in tokens}


def _misfits(shapes: dict[str, tuple[int, ...]], weights: "Headers", is_tied: bool) -> list[str]:
    """How the tensors of the files differ from the model's parameters; empty when they do not.

    With tied embeddings the files may hold the matrix once or twice.
    """
    missing = sorted(set(shapes) - set(weights))
    twice = {"llm.lm_head.weight", "lm_head.weight"} if is_tied else set()
    extra = sorted(set(weights) - set(shapes) - twice)
    wrong = sorted(
        name for name, (shape, _) in weights.items() if name in shapes and shapes[name] != shape
    )
    lines = []
    for kind, names in (("missing", missing), ("extra", extra), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(
                f"the weights have {len(names)} tensors {kind}: {', '.join(names[:3])}{more}"
            )
    return lines


def _stored_bytes(weights: Headers) -> int:
    return sum(math.prod(shape) * STORED_BYTES[dtype] for shape, dtype in weights.values())


def _summary(weights: Headers) -> dict[str, Any]:
    dtypes = Counter(dtype for _, dtype in weights.values())
    return {"tensors": len(weights), "dtypes": [dtype for dtype, _ in dtypes.most_common()]}
