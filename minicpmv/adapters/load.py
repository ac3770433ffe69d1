"""An adapter's files to a model that has it: ours, and those of other trainers."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..checkpoint.tensors import describe, differences
from ..errors import AdviceError, first_line
from ..integrations.peft import imported, without_its_warnings
from ..quantization.block_layers import BlockEmbedding, BlockLinear
from ..quantization.packed_linear import PackedEmbedding, PackedLinear
from .folder import PREFIX, AdapterFiles, base_of
from .parts import is_fixed, widen_trained
from .settings import check_release

if TYPE_CHECKING:
    from peft import PeftModel


def attach(model: Any, adapter: str | Path, *, trainable: bool = False) -> "PeftModel":
    """Give a model an adapter; its weights stay apart from the model's.

    Args:
        model: one of this package, without an adapter. It is changed.
        adapter: a folder, or a repository on the hub: of this package, of PEFT, of the released
            scripts, of ms-swift or LLaMA-Factory.
        trainable: go on with its training: its weights are kept in float32.

    Raises:
        ValueError: it belongs to another model, its tensors are not those that its settings ask
            for, or the model's weights are packed.
        OSError: a file is missing or damaged.
        ImportError: PEFT is not installed.
    """
    peft = imported()
    files = AdapterFiles.find(adapter)
    check_can_have_adapters(model)
    check_release(files.settings, model, files.name)
    tensors = files.tensors(model.config.model_type)
    tuned = _with_layers(model, files, trainable)
    if trainable:
        widen_trained(tuned)
    _check_tensors(files, tuned, tensors)
    peft.set_peft_model_state_dict(tuned, tensors)
    for name, parameter in tuned.named_parameters():
        if is_fixed(name):
            parameter.requires_grad_(False)
    trained = {name: files.settings[name] for name in ("parts", "lora") if name in files.settings}
    tuned.__dict__["trained_parts"] = trained
    return tuned if trainable else tuned.eval()


def check_fits(model: Any, files: AdapterFiles) -> None:
    """
    Args:
        model: without memory, of which nothing else is wanted: it is changed.

    Raises:
        ValueError: the adapter's tensors are not those that its settings ask for of this model.
        ImportError: PEFT is not installed.
    """
    tensors = files.tensors(model.config.model_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what PEFT's own merging would do
        tuned = _with_layers(model, files, trainable=False)
    _check_tensors(files, tuned, tensors)


def _with_layers(model: Any, files: AdapterFiles, trainable: bool) -> "PeftModel":
    """The model with the layers that an adapter's settings ask for, not yet filled.

    Raises:
        ValueError: they say nothing, or do not fit the model.
    """
    peft = imported()
    fields = files.fields()
    if not isinstance(fields.get("peft_type"), str):
        raise ValueError(
            f"adapter_config.json of {files.name!r} has no peft_type, so it is no adapter's. "
            "Download it again."
        )
    try:
        config = peft.PeftConfig.from_pretrained(str(files.config.parent))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"adapter_config.json of {files.name!r} cannot be read: {first_line(error)}"
        ) from error
    if config.is_prompt_learning:
        raise ValueError(
            f"The adapter {files.name!r} is {fields.get('peft_type')}: tokens in front of the "
            "prompt. Adapters that are layers are read: LORA and its like."
        )
    files.whole_parts(model)
    config.inference_mode = not trainable
    try:
        with without_its_warnings():
            return peft.PeftModel(model, config)
    except (ValueError, TypeError) as error:  # of their names, and of their kind
        raise ValueError(
            f"The adapter {files.name!r} does not fit the model: {first_line(error)}"
        ) from error


def check_can_have_adapters(model: Any) -> None:
    """
    Raises:
        ValueError: the model has an adapter already, or packed weights.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        raise ValueError("The model has an adapter already; one at a time. Merge it first.")
    if any(isinstance(module, BlockLinear | BlockEmbedding) for module in model.modules()):
        raise AdviceError(
            "Weights in the blocks of a GGUF file take no adapter. Give it with `adapter` where "
            "they are loaded, which widens them."
        )
    if any(isinstance(module, PackedLinear | PackedEmbedding) for module in model.modules()):
        raise AdviceError(
            "Packed weights of 4 and 8 bits take no adapter. Merge it into the full weights with "
            "minicpmv merge, and quantise the result; or load them with `quantize=nf4`."
        )


def _check_tensors(files: AdapterFiles, tuned: nn.Module, tensors: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: a tensor is missing, has no place, or has another shape.
    """
    expected = shapes_of(tuned)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    missing, unexpected, mismatched = differences(expected, found)
    problems = describe(
        [name.removeprefix(PREFIX) for name in missing],
        [name.removeprefix(PREFIX) for name in unexpected],
        [text.removeprefix(PREFIX) for text in mismatched],
    )
    if problems:
        reason = "it was trained on another model" if mismatched else "its files do not agree"
        raise ValueError(
            f"The tensors of the adapter {files.name!r} are not those that its settings ask for of "
            f"this model, so {reason}: {'; '.join(problems)}."
        )


def shapes_of(tuned: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the adapter in use, by its name in files."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


__all__ = ["attach", "base_of", "check_can_have_adapters", "check_fits", "shapes_of"]
