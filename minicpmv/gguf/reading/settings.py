"""What `config.json` and the small files beside it would say, from the metadata of GGUF files.

Files of this package carry those of the checkpoint. Of others the release is told by what the files
hold: the kind of the language model, the visual tags of the vocabulary, the version of the vision
side. What a release has in common is filled in from its row.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import short
from ...releases import RELEASES, TEXT_RELEASES, Release, model_type_of, release_of
from ..container import GGUFFile
from ..types import FILE_TYPES, UNQUANTISED
from .language import KINDS, number, positive, token_id

# `clip.minicpmv_version`: what llama.cpp calls the vision sides that it runs.
_VERSIONS = {0: "2.5", 2: "2.5", 3: "2.6"}
_VISUAL_TAGS = ("<image>", "</image>", "<im_start>")
_DTYPES = {"F32": "float32", "F16": "float16"}
_SINGLE = (
    "general.architecture",
    "general.file_type",
    "tokenizer.chat_template",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "clip.minicpmv_version",
)
_SAID = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
_FAMILY = "MiniCPM-V 1.0, 2.0, 2.5, 2.6, OmniLMM-12B, and the MiniCPM models of 2024"


def kept(file: GGUFFile, name: str) -> dict[str, Any] | None:
    """A small file of the checkpoint that a file of this package carries; None without.

    Raises:
        ValueError: it is no JSON object.
    """
    text = file.metadata.get(f"minicpmv.{name}")
    if text is None:
        return None
    try:
        found = json.loads(str(text))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{str(file.path)!r} is damaged: minicpmv.{name} is no JSON ({error}). Get it again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(file.path)!r} is damaged: minicpmv.{name} is no JSON object.")
    return found


def check_single(file: GGUFFile) -> None:
    """
    Raises:
        ValueError: a value that decides what the file is, is a list of them.
    """
    for key in (*_SINGLE, f"{file.metadata.get('general.architecture')}.rope.scaling.type"):
        if file.types.get(key, "").startswith("["):
            raise ValueError(
                f"{str(file.path)!r} has {key} as {file.types[key]}; expected one value. Get it "
                "again, or convert the model anew."
            )


def check_language(file: GGUFFile) -> None:
    """
    Raises:
        ValueError: the file holds no language model that this package knows.
    """
    kind = file.metadata.get("general.architecture")
    if kind == "clip":
        raise ValueError(
            f"{str(file.path)!r} is a vision side. Give the language model, and this as mmproj."
        )
    if kind not in KINDS:
        raise ValueError(
            f"{str(file.path)!r} holds a model of architecture {short(kind)}; read are "
            f"{', '.join(KINDS)}, of {_FAMILY}."
        )


def release_in(file: GGUFFile, mmproj: GGUFFile | None) -> Release | None:
    """The release of a model that supports images; None of a text model.

    Raises:
        ValueError: the vision side is of another model, or of none of this family.
    """
    settings = kept(file, "config")
    own = None
    if settings is not None and _is_vision(settings):
        own = release_of(settings)
    elif settings is None:
        own = _told_by_tokens(file)
    if mmproj is None:
        return own
    theirs = RELEASES[_version_of(mmproj)]
    if own is None:
        raise ValueError(
            f"{str(file.path)!r} is a text model, and mmproj {str(mmproj.path)!r} the vision side "
            f"of {theirs.name}. Leave mmproj out, or give the language model of {theirs.name}."
        )
    if own != theirs:
        raise ValueError(
            f"{str(file.path)!r} is the language model of {own.name}, and mmproj "
            f"{str(mmproj.path)!r} the vision side of {theirs.name}. Take both of one model."
        )
    return own


def _is_vision(settings: Mapping[str, Any]) -> bool:
    return settings.get("model_type") in ("minicpmv", "omnilmm")


def _told_by_tokens(file: GGUFFile) -> Release | None:
    tokens = set(file.metadata.get("tokenizer.ggml.tokens", ()))
    kind = file.metadata["general.architecture"]
    if not tokens & set(_VISUAL_TAGS):
        return None
    if kind == "qwen2":
        return RELEASES["2.6"]
    if kind == "llama":
        return RELEASES["omnilmm-12b" if "<im_start>" in tokens else "2.5"]
    return RELEASES["2.0" if "<slice>" in tokens else "1.0"]


def _version_of(mmproj: GGUFFile) -> str:
    """Of a vision side.

    Raises:
        ValueError: it is none of this family.
    """
    said = mmproj.metadata
    if said.get("general.architecture") != "clip":
        raise ValueError(
            f"mmproj {str(mmproj.path)!r} is no vision side: its architecture is "
            f"{short(said.get('general.architecture'))}, expected 'clip'."
        )
    if "minicpmv.version" in said and str(said["minicpmv.version"]) in RELEASES:
        return str(said["minicpmv.version"])
    version = said.get("clip.minicpmv_version", 0)
    has_resampler = "resampler.query" in mmproj.tensors
    if version not in _VERSIONS or not has_resampler:
        what = f"clip.minicpmv_version {short(version)}" if has_resampler else "no resampler"
        raise ValueError(
            f"mmproj {str(mmproj.path)!r} has {what}; read are 2 (2.5) and 3 (2.6), and what "
            "minicpmv export gguf wrote. MiniCPM-V 4.0 and later load in transformers or llama.cpp."
        )
    return _VERSIONS[version]


def config_fields(
    file: GGUFFile, mmproj: GGUFFile | None, release: Release | None
) -> dict[str, Any]:
    """The fields of `config.json`; of a model that supports images, without its vision side those
    of its language model.

    Raises:
        ValueError: a number is missing, or the model is none of this family.
    """
    fields = kept(file, "config")
    if fields is None:
        fields = _language_fields(file)
    else:
        _check_said(file, fields)
    is_tied = "output.weight" not in file.tensors
    fields["tie_word_embeddings"] = is_tied
    fields["torch_dtype"] = _dtype(file, fields)
    fields.pop("dtype", None)
    fields.pop("quantization_config", None)
    if release is None:
        fields["model_type"] = model_type_of(fields) or _text_type(file)
        return fields
    fields.setdefault("model_type", release.model_type)
    if mmproj is None:
        return _of_language(fields, release)
    if kept(file, "config") is None:
        fields |= _vision_fields(mmproj, release)
    return fields


def _check_said(file: GGUFFile, fields: Mapping[str, Any]) -> None:
    """Numbers that a file says to llama.cpp must be those of the checkpoint that it carries.

    Raises:
        ValueError: they are not, or the head is missing.
    """
    if fields.get("tie_word_embeddings") is False:
        file.info("output.weight")
    kind = file.metadata["general.architecture"]
    for key, ours in _SAID.items():
        said, known = file.metadata.get(f"{kind}.{key}"), fields.get(ours)
        if said is None or not isinstance(known, int):
            continue
        if not isinstance(said, int) or said != known:
            raise ValueError(
                f"{str(file.path)!r} is damaged: {kind}.{key} is {short(said)}, and {ours} of the "
                f"checkpoint in it {known}. Get it again, or convert the model anew."
            )


def _language_fields(file: GGUFFile) -> dict[str, Any]:
    heads = number(file, "attention.head_count")
    layers, width = number(file, "block_count"), number(file, "embedding_length")
    said = file.metadata
    fields: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": number(file, "attention.head_count_kv", heads),
        "intermediate_size": number(file, "feed_forward_length"),
        "max_position_embeddings": number(file, "context_length"),
        "rms_norm_eps": shortest(number(file, "attention.layer_norm_rms_epsilon")),
        "rope_theta": shortest(number(file, "rope.freq_base", 10000.0)),
        "vocab_size": file.info("token_embd.weight").shape[0],
        "hidden_act": "silu",
        "rope_scaling": None,
    }
    for key in ("attention.key_length", "attention.value_length"):
        if number(file, key, 0) and heads > 0 and number(file, key) * heads != width:
            raise ValueError(
                f"{str(file.path)!r} has {short(number(file, key))} as {key}; expected "
                f"{width / heads:g}, as in all models of this family."
            )
    for ours, theirs in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        if (found := token_id(file, theirs)) is not None:
            fields[ours] = found
    scaling = said.get(f"{said['general.architecture']}.rope.scaling.type", "none")
    if scaling == "linear":
        fields["rope_scaling"] = {"type": "linear", "factor": number(file, "rope.scaling.factor")}
    elif scaling != "none":
        raise ValueError(
            f"{str(file.path)!r} has rope scaling {short(scaling)}; read are none and 'linear'."
        )
    experts = number(file, "expert_count", 0)
    if said["general.architecture"] == "minicpm":
        root = math.sqrt(positive(file, "block_count"))
        scale = positive(file, "residual_scale", 1.4 / root)
        fields |= {
            "scale_emb": _whole(shortest(positive(file, "embedding_scale", 12.0))),
            "scale_depth": round(scale * root, 6),
            "dim_model_base": _whole(width / positive(file, "logit_scale", width / 256)),
        }
        if experts:
            fields["num_experts"] = experts
            fields["num_experts_per_tok"] = number(file, "expert_used_count")
    elif experts:
        fields["num_local_experts"] = experts
        fields["num_experts_per_tok"] = number(file, "expert_used_count")
    return fields


def _text_type(file: GGUFFile) -> str:
    """`model_type` of a text model of a file that does not say it.

    Raises:
        ValueError: it was not made from MiniCPM.
    """
    kind = file.metadata["general.architecture"]
    if kind == "minicpm":
        return "minicpm"
    template = str(file.metadata.get("tokenizer.chat_template", ""))
    if kind == "llama" and any(
        row.user_tag in template for row in TEXT_RELEASES.values() if row.user_tag.startswith("<用")
    ):
        return "mixtral" if number(file, "expert_count", 0) else "llama"
    raise ValueError(
        f"{str(file.path)!r} is a {kind} model without the tags of this family, so it is none of "
        f"{_FAMILY}. Load it with transformers or llama.cpp."
    )


def _of_language(fields: Mapping[str, Any], release: Release) -> dict[str, Any]:
    """The fields of the language model alone."""
    dropped = ("vision_config", "auto_map", "architectures", "version", "slice_config")
    text = {key: value for key, value in fields.items() if key not in dropped}
    text |= dict(text.pop("text_config", None) or {})
    return text | {"model_type": release.text_model_type}


def _vision_fields(mmproj: GGUFFile, release: Release) -> dict[str, Any]:
    """What a file of llama.cpp's converter says of the vision side of 2.5 or 2.6.

    Raises:
        ValueError: a number is missing.
    """
    patch_size = _clip_number(mmproj, "patch_size")
    table = mmproj.info("v.position_embd.weight").shape[0]
    layers = {name.split(".")[2] for name in mmproj.tensors if name.startswith("v.blk.")}
    first = mmproj.info("v.blk.0.ffn_up.weight").shape
    width = mmproj.info("v.post_ln.weight").shape[0]
    resolution = _clip_number(mmproj, "image_size", 448)
    return {
        "version": release.version,
        "model_type": release.model_type,
        "architectures": ["MiniCPMV"],
        "image_size": resolution,
        "patch_size": patch_size,
        "query_num": mmproj.info("resampler.query").shape[0],
        "slice_mode": True,
        "drop_vision_last_layer": False,
        "batch_vision_input": True,
        "slice_config": {
            "max_slice_nums": 9,
            "patch_size": patch_size,
            "scale_resolution": resolution,
            "model_type": "minicpmv",
        },
        "vision_config": {
            "hidden_size": width,
            "image_size": math.isqrt(table) * patch_size,
            "intermediate_size": first[0] if first[1] == width else first[1],
            "model_type": "idefics2" if release.version == "2.5" else "siglip",
            "num_attention_heads": _clip_number(mmproj, "attention.head_count"),
            "num_hidden_layers": len(layers),
            "patch_size": patch_size,
        },
    }


def _clip_number(mmproj: GGUFFile, key: str, default: int | None = None) -> int:
    value = mmproj.metadata.get(f"clip.vision.{key}", default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(
            f"mmproj {str(mmproj.path)!r} has no number clip.vision.{key}. Get it again, or "
            "convert the model anew."
        )
    return value


def preprocessor_fields(
    file: GGUFFile, mmproj: GGUFFile, release: Release, fields: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The fields of `preprocessor_config.json`; None where the release has no such file.

    Args:
        fields: of `config.json`.
    """
    if not release.has_preprocessor_config:
        return None
    found = kept(file, "preprocessor_config")
    if found is not None:
        return found
    cut = fields["slice_config"]
    mean = _channels(mmproj, "image_mean", release.image_mean)
    std = _channels(mmproj, "image_std", release.image_std)
    return {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "max_slice_nums": cut.get("max_slice_nums", 9),
        "scale_resolution": cut.get("scale_resolution", 448),
        "patch_size": fields["patch_size"],
        "image_feature_size": fields["query_num"],
        "use_image_id": release.use_image_id,
        "slice_mode": True,
        "norm_mean": [shortest(x) for x in mean],
        "norm_std": [shortest(x) for x in std],
        "version": float(release.version),
    }


def _channels(mmproj: GGUFFile, key: str, default: Sequence[float]) -> Sequence[float]:
    """Numbers of the three colours."""
    found = mmproj.metadata.get(f"clip.vision.{key}", default)
    if isinstance(found, str | int | float) or len(found) != 3 or not np.all(_are_finite(found)):
        raise ValueError(
            f"mmproj {str(mmproj.path)!r} has {short(found)} as clip.vision.{key}; expected three "
            "finite numbers. Get it again, or convert the model anew."
        )
    return found


def _are_finite(values: Any) -> Any:
    array = np.asarray(values)
    return np.isfinite(array) if array.dtype.kind in "fiu" else False


def generation_fields(file: GGUFFile, release: Release | None) -> dict[str, Any]:
    """The fields of `generation_config.json`."""
    found = kept(file, "generation_config")
    if found is not None:
        return found
    said = file.metadata
    tokens = list(said.get("tokenizer.ggml.tokens", ()))
    names = ("eos", "eot")
    ids = [each for name in names if (each := token_id(file, name)) is not None]
    ends = () if release is None else release.terminators
    ids += [tokens.index(text) for text in ends if text in tokens]
    ids = list(dict.fromkeys(ids))
    result: dict[str, Any] = {"_from_model_config": True}
    if ids:
        result["eos_token_id"] = ids if len(ids) > 1 else ids[0]
    if (bos := token_id(file, "bos")) is not None:
        result["bos_token_id"] = bos
    return result


def _dtype(file: GGUFFile, fields: Mapping[str, Any]) -> str:
    """What the weights are kept in; of quantised ones what the checkpoint was."""
    base = file_type(file)
    if base in _DTYPES:
        return _DTYPES[base]
    if base == "BF16":
        return "bfloat16"
    return str(fields.get("torch_dtype") or fields.get("dtype") or "bfloat16")


def file_type(file: GGUFFile) -> str:
    """The name of the mixture, from what most numbers are stored as where nothing is said."""
    said = file.metadata.get("general.file_type")
    for each in FILE_TYPES.values():
        if each.id == said and (said or each.base in _types(file)):
            return each.name
    sizes: dict[str, int] = {}
    for info in file.tensors.values():
        sizes[info.type.name] = sizes.get(info.type.name, 0) + info.size
    return max(sizes, key=lambda name: sizes[name])


def _types(file: GGUFFile) -> set[Any]:
    return {info.type for info in file.tensors.values()}


def shortest(value: float) -> float:
    """The number with the fewest digits that is the same float32."""
    return float(str(np.float32(value)))


def _whole(value: float) -> float | int:
    """An int where it is one, as released files have it."""
    nearest = round(value)
    return nearest if abs(value - nearest) < 1e-3 else value


__all__ = [
    "UNQUANTISED",
    "check_language",
    "check_single",
    "config_fields",
    "file_type",
    "generation_fields",
    "preprocessor_fields",
    "release_in",
]
