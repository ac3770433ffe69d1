"""`minicpmv info`: what a model is, read from its small files and the headers of its weights.

The model is built without memory for its parameters, so the largest release takes seconds.
"""

import argparse
import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_files import find_file, locate, read_json
from .slice import slice_limits

if TYPE_CHECKING:
    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.processing.processor import MiniCPMVProcessor

DESCRIPTION = """\
Show what a model is made of, and whether its files agree with each other.

The exit code is 1 when they do not. No weights are loaded; those of a folder are compared with the
model by name and shape.
"""

# By the first word of released tensor names.
PARTS = {"vision tower": "vpm.", "resampler": "resampler.", "language model": "llm."}
BYTES = {"float32": 4, "bfloat16": 2}

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
    return 1 if report["disagreements"] else 0


def inspect(model: str, revision: str | None = None) -> dict[str, Any]:
    """Everything `minicpmv info` shows, as plain data.

    Raises:
        OSError: there is no such model, or a file of it is missing.
        ValueError: a file is damaged, or the release is not known.
    """
    import minicpmv.auto  # noqa: F401 - registers the classes
    from minicpmv.agreement import disagreements
    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.processing.processor import MiniCPMVProcessor

    location = locate(model, revision)
    config = MiniCPMVConfig.from_dict(read_json(location, "config.json", revision))
    read_json(location, "preprocessor_config.json", revision)  # for a clear error when damaged
    _check_tokenizer(find_file(location, "tokenizer.json", revision))
    processor = MiniCPMVProcessor.from_pretrained(
        location, **({"revision": revision} if revision else {})
    )
    shapes = parameter_shapes(config)
    folder = Path(location)
    weights = read_headers(folder) if folder.is_dir() else None
    problems = disagreements(config, processor)
    if weights is not None:
        problems += _misfits(shapes, weights, bool(config.tie_word_embeddings))

    sizes = count_parameters(shapes)
    total = sum(sizes.values())
    return {
        "model": model,
        "release": config.release.name,
        "version": config.version,
        "parameters": {**sizes, "total": total},
        "memory_bytes": {dtype: total * width for dtype, width in BYTES.items()},
        "shapes": _shapes_of_parts(config),
        "weights": None if weights is None else _summary(weights),
        "slicing": {
            name: getattr(processor.image_processor, name)
            for name in ("scale_resolution", "max_slice_nums", "patch_size", "image_feature_size")
        },
        "special_tokens": _special_tokens(processor),
        "disagreements": problems,
    }


def _shapes_of_parts(config: "MiniCPMVConfig") -> dict[str, dict[str, Any]]:
    text: Any = config.text_config
    vision: Any = config.vision_config
    return {
        "vision tower": {
            "layers": vision.num_hidden_layers,
            "hidden": vision.hidden_size,
            "heads": vision.num_attention_heads,
            "mlp": vision.intermediate_size,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
        },
        "resampler": {"queries": config.query_num, "hidden": text.hidden_size},
        "language model": {
            "type": text.model_type,
            "layers": text.num_hidden_layers,
            "hidden": text.hidden_size,
            "heads": text.num_attention_heads,
            "key_value_heads": text.num_key_value_heads,
            "mlp": text.intermediate_size,
            "vocabulary": text.vocab_size,
            "context": text.max_position_embeddings,
        },
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
        lines.append(f"{'weights':15}{weights['tensors']} tensors, {', '.join(weights['dtypes'])}")
    else:
        lines.append(f"{'weights':15}not fetched, so not compared with the model")
    slicing = report["slicing"]
    lines.append(
        f"{'pictures':15}{slice_limits(slicing['scale_resolution'], slicing['max_slice_nums'])}, "
        f"{slicing['image_feature_size']} tokens per slice"
    )
    lines += ["", "special tokens"]
    lines += [f"  {token:22}{index}" for token, index in report["special_tokens"].items()]
    problems = report["disagreements"]
    lines += ["", "The files disagree:" if problems else "The files agree with each other."]
    lines += [f"  {problem}" for problem in problems]
    return "\n".join(lines)


def _in_units(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def read_headers(folder: Path) -> Headers:
    """Shape and dtype of every tensor in a folder's safetensors files; the data is not read.

    Raises:
        OSError: there is no such file.
        ValueError: a file is cut short or damaged.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
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


def parameter_shapes(config: "MiniCPMVConfig") -> dict[str, tuple[int, ...]]:
    """Shape of every parameter under its released name."""
    import torch

    from minicpmv.model.checkpoint_keys import to_released
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

    with torch.device("meta"):
        model = MiniCPMVForConditionalGeneration(config)
    return {
        to_released(name, config.model_type): tuple(p.shape) for name, p in model.named_parameters()
    }


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Numbers in each part of the model."""
    return {
        part: sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
        for part, prefix in PARTS.items()
    }


def _check_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{str(path)!r} is not a tokenizer file: {error}") from error


def _special_tokens(processor: "MiniCPMVProcessor") -> dict[str, int | None]:
    """Ids of the strings that have a meaning of their own; None for one the tokenizer lacks."""
    images = processor.image_processor
    tokens = [images.im_start, images.im_end, images.slice_start, images.slice_end]
    if images.use_image_id:
        tokens += [images.im_id_start, images.im_id_end]
    vocabulary = processor.tokenizer.get_vocab()
    return {t: vocabulary.get(t) for t in [*tokens, images.unk, *processor.release.terminators]}


def _misfits(shapes: dict[str, tuple[int, ...]], weights: "Headers", is_tied: bool) -> list[str]:
    """How the tensors of the files differ from the model's parameters; empty when they do not.

    With tied embeddings the files may hold the matrix once or twice.
    """
    missing = sorted(set(shapes) - set(weights))
    extra = sorted(set(weights) - set(shapes) - ({"llm.lm_head.weight"} if is_tied else set()))
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


def _summary(weights: Headers) -> dict[str, Any]:
    dtypes = Counter(dtype for _, dtype in weights.values())
    return {"tensors": len(weights), "dtypes": [dtype for dtype, _ in dtypes.most_common()]}
