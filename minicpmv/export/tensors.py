"""The tensors in a checkpoint's files must be just those that its config asks for."""

from typing import Any

import torch

from ..adapters.folder import PREFIX
from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import check_tensors, differences
from ..checkpoint.weights import WeightFiles
from ..integrations.peft import our_tensor_name
from ..model.header_checks import check_counts, check_tied, wrong_kinds
from .llama import tensor_shapes

HEAD = "lm_head.weight"


def tensors_of(checkpoint: Checkpoint, weights: WeightFiles, empty: Any) -> dict[str, str]:
    """The name in the files of every tensor, by its released name; of a tied head none.

    Args:
        empty: the model without memory for its parameters.

    Raises:
        ValueError: a tensor is missing, too many, of another shape or no floating-point numbers.
    """
    config = empty.config
    is_tied = bool(config.tie_word_embeddings)
    check_counts(config, weights.shapes, checkpoint.location)
    files = {
        empty.released_name(our_name(name, empty).removeprefix(PREFIX)): name
        for name in weights.shapes
        if not name.endswith("rotary_emb.inv_freq")  # a table that old files keep
    }
    if config.model_type == "mixtral":  # transformers joins the experts, and files do not
        expected = tensor_shapes(config, "mixtral", config.num_local_experts, is_tied)
    else:
        expected = {empty.released_name(n): tuple(p.shape) for n, p in empty.named_parameters()}
    found = {name: weights.shapes[file] for name, file in files.items()}
    twice = {empty.released_name(HEAD)} if is_tied else set()
    check_tensors(checkpoint.location, *differences(expected, found, twice))
    wrong = [name for name, file in files.items() if weights.dtypes[file] is None]
    if wrong:
        raise ValueError(
            f"{wrong_kinds(wrong)} in {checkpoint.location!r}. Download the checkpoint again."
        )
    if is_tied and checkpoint.folder is not None:
        check_tied(checkpoint.folder, weights)
        for name in twice:
            files.pop(name, None)
    return files


def check_finite(name: str, tensor: torch.Tensor, file: str) -> None:
    """Refuse a tensor that loading would refuse.

    Args:
        file: of the checkpoint, where its numbers come from.

    Raises:
        ValueError: NaN or infinity; of what was computed, a number may be too large for the dtype.
    """
    if not bool(tensor.isfinite().all()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} holds numbers that are not finite in {dtype} (NaN or infinity); they come "
            f"from {file}. Download the checkpoint again, or take one whose weights are in a dtype "
            "with a wider range."
        )


def our_name(name: str, empty: Any) -> str:
    """The name in adapters of a tensor in the files."""
    return our_tensor_name(f"{PREFIX}{name}", empty.config.model_type)
