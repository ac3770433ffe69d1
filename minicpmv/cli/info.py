"""`minicpmv info`: what a model is, read from its small files and the headers of its weights.

The model is built without memory for its parameters, so the largest release takes seconds.
"""

import argparse
import json
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_files import find_file, nano_folder, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from minicpmv.model.configuration import MiniCPMVConfig

DESCRIPTION = """\
Show what a model is made of, and whether its files agree with each other.

The exit code is 1 when they do not. No weights are loaded; those of a folder are compared with the
model by name and shape.
"""

PARTS = {
    "vision tower": ("vpm.",),
    "resampler": ("resampler.",),
    "language model": ("llm.",),
}
BYTES = {"float32": 4, "bfloat16": 2}


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
    return 0 if all(check["agrees"] for check in report["checks"]) else 1


@dataclass(frozen=True)
class Check:
    """Something that two files of a model say; `found` is what each says."""

    name: str
    found: dict[str, Any]
    agrees: bool

    @classmethod
    def equal(cls, name: str, **found: Any) -> "Check":
        values = list(found.values())
        return cls(name, found, all(value == values[0] for value in values))


def inspect(model: str, revision: str | None = None) -> dict[str, Any]:
    """Everything `minicpmv info` shows, as plain data.

    Raises:
        OSError: there is no such model, or a file of it is missing.
        ValueError: a file is damaged, or the release is not known.
    """
    from minicpmv.model.configuration import MiniCPMVConfig

    released = read_json(model, "config.json", revision)
    config = MiniCPMVConfig.from_dict(released)
    processor = read_json(model, "preprocessor_config.json", revision)
    tokenizer = _read_tokenizer(find_file(model, "tokenizer.json", revision))

    shapes = _model_shapes(config)
    folder = nano_folder() if model == "nano" else Path(model).expanduser()
    weights = read_headers(folder) if folder.is_dir() else None

    text, vision = config.text_config, config.vision_config
    sizes = {
        part: sum(_size(shape) for name, shape in shapes.items() if name.startswith(prefixes))
        for part, prefixes in PARTS.items()
    }
    total = sum(sizes.values())
    return {
        "model": model,
        "release": config.release.name,
        "version": config.version,
        "parameters": {**sizes, "total": total},
        "memory_bytes": {dtype: total * width for dtype, width in BYTES.items()},
        "shapes": {
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
        },
        "weights": None if weights is None else _summary(weights),
        "slicing": {
            name: processor.get(name)
            for name in ("scale_resolution", "max_slice_nums", "patch_size", "image_feature_size")
        },
        "special_tokens": _special_tokens(tokenizer, config, processor),
        "checks": [vars(check) for check in _checks(config, processor, tokenizer, shapes, weights)],
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
        f"{'pictures':15}slices of {slicing['scale_resolution']} px, at most "
        f"{slicing['max_slice_nums']} beside the overview, "
        f"{slicing['image_feature_size']} tokens each"
    )
    lines += ["", "special tokens"]
    lines += [f"  {token:22}{index}" for token, index in report["special_tokens"].items()]
    lines += ["", "agreement"]
    for check in report["checks"]:
        found = list(check["found"].values())
        if check["agrees"]:
            lines.append(f"  ok   {check['name']}: {found[0]}")
        else:
            said = ", ".join(f"{where} says {value}" for where, value in check["found"].items())
            lines.append(f"  NO   {check['name']}: {said}")
    return "\n".join(lines)


def _in_units(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def read_headers(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
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


def _model_shapes(config: "MiniCPMVConfig") -> dict[str, tuple[int, ...]]:
    """Shape of every parameter under its released name."""
    import torch

    from minicpmv.model.checkpoint_keys import to_released
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

    with torch.device("meta"):
        model = MiniCPMVForConditionalGeneration(config)
    return {to_released(name): tuple(p.shape) for name, p in model.named_parameters()}


def _read_tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{str(path)!r} is not a tokenizer file: {error}") from error


def _special_tokens(
    tokenizer: "Tokenizer", config: "MiniCPMVConfig", processor: dict[str, Any]
) -> dict[str, int | None]:
    tokens = [*_tags(config, processor), *config.release.terminators]
    return {token: tokenizer.token_to_id(token) for token in tokens}


def _tags(config: "MiniCPMVConfig", processor: dict[str, Any]) -> list[str]:
    """The tags that this release writes around pictures, and the filler between them."""
    defaults = {
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
    }
    if processor.get("use_image_id", config.release.use_image_id):
        defaults |= {"im_id_start": "<image_id>", "im_id_end": "</image_id>"}
    return [processor.get(name, tag) for name, tag in defaults.items()]


def _checks(
    config: "MiniCPMVConfig",
    processor: dict[str, Any],
    tokenizer: "Tokenizer",
    shapes: dict[str, tuple[int, ...]],
    weights: dict[str, tuple[tuple[int, ...], str]] | None,
) -> list[Check]:
    text: Any = config.text_config
    vision: Any = config.vision_config
    slicing = config.slice_config or {}
    release = config.release
    said = processor.get
    checks = [
        Check.equal("release", model=config.version, processor=str(said("version", "2.5"))),
        Check.equal(
            "tokens per slice", model=config.query_num, processor=said("image_feature_size")
        ),
        Check.equal(
            "patch_size",
            model=config.patch_size,
            vision_tower=vision.patch_size,
            processor=said("patch_size"),
        ),
        Check.equal(
            "scale_resolution",
            model=slicing.get("scale_resolution", 448),
            processor=said("scale_resolution"),
        ),
        Check.equal(
            "max_slice_nums",
            model=slicing.get("max_slice_nums", said("max_slice_nums")),
            processor=said("max_slice_nums"),
        ),
        Check.equal(
            "use_image_id",
            model=config.use_image_id,
            processor=said("use_image_id", release.use_image_id),
        ),
        Check.equal("slice_mode", model=config.slice_mode, processor=said("slice_mode", True)),
    ]

    tags = _tags(config, processor)
    absent = [tag for tag in tags if tokenizer.token_to_id(tag) is None]
    checks.append(
        Check(
            "picture tags are tokens",
            {"processor": " ".join(tags), "tokenizer": f"no {' '.join(absent)}"},
            not absent,
        )
    )
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    rows = text.vocab_size
    checks.append(
        Check(
            "every token has an embedding",
            {"model": f"{rows} rows", "tokenizer": f"ids up to {highest}"},
            highest < rows,
        )
    )
    if weights is not None:
        checks.append(_check_weights(shapes, weights))
    return checks


def _check_weights(
    shapes: dict[str, tuple[int, ...]], weights: dict[str, tuple[tuple[int, ...], str]]
) -> Check:
    missing = sorted(set(shapes) - set(weights))
    extra = sorted(set(weights) - set(shapes))
    wrong = sorted(
        name for name, (shape, _) in weights.items() if name in shapes and shapes[name] != shape
    )
    found = {"model": f"{len(shapes)} tensors of the expected names and shapes"}
    problems = []
    for kind, names in (("missing", missing), ("extra", extra), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{len(names)} {kind}: {', '.join(names[:3])}{more}")
    found["weights"] = "; ".join(problems) or f"{len(weights)} tensors"
    return Check("weights fill the model", found, not problems)


def _summary(weights: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, Any]:
    dtypes = Counter(dtype for _, dtype in weights.values())
    return {"tensors": len(weights), "dtypes": [dtype for dtype, _ in dtypes.most_common()]}


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
