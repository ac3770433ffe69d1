"""A config against the headers of its weight files, before a model is built or memory is taken.

The layers of a model are alike, so one layer of each kind, without memory, tells the shape of every
tensor; how many there are is counted by the names in the headers.
"""

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.configuration_utils import PreTrainedConfig

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import check_tensors, other_shape
from ..checkpoint.weights import UNREADABLE, TwiceError, WeightFiles
from ..quantization.files import own_config
from .size_hints import config_hints, counts_in

_NUMBER = re.compile(r"\.\d+\.")
FLOAT_KINDS = ("F64", "F32", "F16", "BF16")  # as headers of safetensors name them
# Keywords of `from_pretrained` that load from elsewhere than the checkpoint's usual files.
_ELSEWHERE = ("state_dict", "gguf_file", "use_safetensors")


def check_headers(model_class: Any, path: Any, keywords: Mapping[str, Any]) -> bool:
    """Check the numbers of layers, and shape and kind of every tensor, against the config.

    Args:
        path, keywords: of `from_pretrained`.

    Returns:
        False where there was nothing to read: weights that are not on this disk yet, or given
        otherwise.

    Raises:
        ValueError: names what differs, or a tensor that two files hold.
    """
    if path is None or any(keywords.get(name) for name in _ELSEWHERE):
        return False
    config = own_config(model_class, path, dict(keywords))["config"]
    commit = getattr(config, "_commit_hash", None)
    checkpoint = Checkpoint.at(path, {**keywords, "_commit_hash": commit}).kept()
    if checkpoint.folder is None or not (checkpoint.is_folder or commit):
        return False
    folder = checkpoint.folder
    with _readable(checkpoint) as weights:
        if weights is None:
            return False
        check_counts(config, weights.shapes, folder)
        check_tensors_of(model_class, config, folder, weights)
    return True


def check_tensors_of(
    model_class: Any, config: PreTrainedConfig, folder: Path, weights: WeightFiles
) -> None:
    """Check shape and kind of every tensor that the model has by name."""
    shapes = dict(_shapes_of_one_layer(model_class, config))
    is_packed = getattr(config, "quantization_config", None) is not None
    is_packed = is_packed or (folder / "quantize_config.json").is_file()
    mismatched, kinds, excess = [], [], 0
    for name, found in weights.shapes.items():
        expected = shapes.get(_NUMBER.sub(".0.", name))
        is_float = weights.dtypes[name] is not None
        if expected is None or (is_packed and not is_float):
            continue
        if not is_float:
            kinds.append(name)
        if found != expected:
            mismatched.append((name, found, expected))
            excess += max(math.prod(expected) - math.prod(found), 0)
    if kinds:
        raise ValueError(f"{wrong_kinds(kinds)} in {str(folder)!r}. Download the checkpoint again.")
    if not is_packed and config.tie_word_embeddings:
        check_tied(folder, weights)
    # Loading names all differences at once, and takes memory for what does not fit. Where that is
    # more than the whole model, there is no need to try.
    if excess > sum(map(math.prod, weights.shapes.values())):
        differing = [other_shape(*entry) for entry in mismatched]
        check_tensors(folder, [], [], differing, config_hints(config, weights.shapes, mismatched))


def check_tied(folder: Path, weights: WeightFiles) -> None:
    """Check that a stored head equals the embedding that it is tied to.

    Raises:
        ValueError: they are not, and loading would pass over the head.
    """
    ends = ("lm_head.weight", "embed_tokens.weight")
    found = [[name for name in weights.shapes if name.endswith(end)] for end in ends]
    if not all(found):
        return
    head, embedding = weights[found[0][0]], weights[found[1][0]]
    if head.data_ptr() != embedding.data_ptr() and not torch.equal(head, embedding):
        raise ValueError(
            f"config.json of {str(folder)!r} says tie_word_embeddings true, or leaves it out, and "
            f"{found[0][0]} is another matrix than {found[1][0]}. Set tie_word_embeddings to "
            "false, or take config.json of the release."
        )


def wrong_kinds(names: list[str]) -> str:
    """Words for tensors that hold no floating-point numbers where weights belong."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"{len(names)} tensors hold no weights (no floating-point numbers of 16, 32 or 64 bits): "
        f"{', '.join(sorted(names)[:3])}{more}"
    )


def check_counts(config: Any, names: Iterable[str], folder: Any) -> None:
    """Check the numbers of layers and experts against the names of the weights.

    Raises:
        ValueError: names the field, its value and what the weights have.
    """
    problems = wrong_counts(config, names)
    if problems:
        raise ValueError(
            f"{problems[0]}, so config.json of {str(folder)!r} does not belong to its weights. "
            "Take both from one release."
        )


def wrong_counts(config: Any, names: Iterable[str]) -> list[str]:
    """Numbers of layers and experts that the config says and the names of tensors contradict.

    Args:
        names: of all tensors of the checkpoint, released or ours.
    """
    text: Any = config.get_text_config()
    vision = getattr(config, "vision_config", None)
    found = counts_in(names)
    said = {"text": ("num_hidden_layers", text.num_hidden_layers)}
    if vision is not None:
        dropped = int(bool(config.drop_vision_last_layer))
        said["vision"] = (
            "vision_config.num_hidden_layers",
            max(vision.num_hidden_layers - dropped, 0),
        )
    for field in ("num_experts", "num_local_experts"):
        if getattr(text, field, None):
            said["experts"] = (field, getattr(text, field))
    lines = []
    for part, (field, number) in said.items():
        # Fewer layers than the files have are named, tensor by tensor, once the model is loaded;
        # so are some that are missing. Many more are refused here, before they are built.
        if part in found and number > 2 * found[part] + 2:
            what = "experts" if part == "experts" else "layers"
            lines.append(
                f"config.json says {field} {number}, the weights have {found[part]} {what}"
            )
    return lines


@contextmanager
def _readable(checkpoint: Checkpoint) -> Iterator[WeightFiles | None]:
    """The weight files on this disk; None where loading itself has more to say about them."""
    try:
        files = WeightFiles(checkpoint.weight_files())
    except TwiceError:
        raise
    except (OSError, ValueError, *UNREADABLE):
        files = None
    if files is None:
        yield None
        return
    with files:
        yield files


def _shapes_of_one_layer(
    model_class: Any, config: PreTrainedConfig
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names in files, with 0 for every number, and shapes; of a model with one layer of a kind."""
    small = copy.deepcopy(config)
    text: Any = small.get_text_config()
    text.num_hidden_layers = 1
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    if getattr(small, "vision_config", None) is not None:
        small.vision_config.num_hidden_layers = 2  # one of them may be dropped
    with torch.device("meta"):
        model = model_class(small)
    base = model.base_model_prefix
    prefix = "" if hasattr(model, base) else f"{base}."
    for name, parameter in model.named_parameters():
        names = {model_class.released_name(prefix + name), prefix + name}
        for in_files in names:
            yield _NUMBER.sub(".0.", in_files), tuple(parameter.shape)
