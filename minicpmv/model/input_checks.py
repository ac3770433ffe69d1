"""Inputs that do not belong together are named errors, not numbers.

Shapes cost nothing. Values (sizes of slices, numbers of placeholders) are read back from the
device, once for the pictures of a prompt and never for a step of the decoder. While a graph is
traced or captured, nothing is checked: call the model once without compiling to see what is wrong.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils.import_utils import is_tracing


def check_slice_shapes(
    pixel_values: torch.Tensor, target_sizes: torch.Tensor | None, vision_config: Any
) -> None:
    """Refuse slices that are not strips of patches with one row of `target_sizes` each."""
    if is_tracing(pixel_values):
        return
    if target_sizes is None:
        raise ValueError("pixel_values need target_sizes, one row (height, width) per slice.")
    patch, channels = vision_config.patch_size, vision_config.num_channels
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or not shape[0] or shape[1:3] != (channels, patch) or shape[3] % patch:
        raise ValueError(
            f"pixel_values has shape {shape}; expected (num_slices, {channels}, {patch}, "
            f"{patch} * max_patches), as MiniCPMVProcessor returns them. For text alone, leave it "
            "out."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values is of type {pixel_values.dtype}; expected normalised numbers, as "
            "MiniCPMVProcessor returns them."
        )
    if target_sizes.shape != (len(pixel_values), 2):
        raise ValueError(
            f"target_sizes has shape {tuple(target_sizes.shape)} and pixel_values "
            f"{len(pixel_values)} rows; both need one row per slice, target_sizes two columns."
        )
    if target_sizes.is_floating_point() or target_sizes.dtype == torch.bool:
        raise ValueError(
            f"target_sizes is of type {target_sizes.dtype}; expected whole numbers, height and "
            "width of each slice in patches."
        )


def check_slice_sizes(pixel_values: torch.Tensor, target_sizes: torch.Tensor, patch: int) -> None:
    """Refuse sizes that no slice can have, or that do not fit into the strips."""
    if is_tracing(target_sizes):
        return
    max_patches = pixel_values.shape[3] // patch
    for index, (height, width) in enumerate(target_sizes.tolist()):
        if height < 1 or width < 1:
            raise ValueError(
                f"Row {index} of target_sizes is ({height}, {width}); height and width of a slice "
                "are at least one patch."
            )
        if height * width > max_patches:
            raise ValueError(
                f"Row {index} of target_sizes tells of a slice of {height} x {width} = "
                f"{height * width} patches, and pixel_values holds {max_patches} per slice."
            )


def check_slice_counts(counts: Any, num_slices: int) -> None:
    """Refuse numbers of slices per sample that do not add up to `num_slices`."""
    if isinstance(counts, list) and (sum(counts) != num_slices or min(counts) < 0):
        raise ValueError(
            f"slices_per_sample counts {sum(counts)} slices and pixel_values has {num_slices} "
            "rows; they must agree."
        )


def check_slice_index(slice_index: torch.Tensor, num_slices: int, slices_per_sample: Any) -> None:
    """Refuse places of slices that are not there, and those of slices that are nobody's."""
    if slices_per_sample is None:
        raise ValueError("slice_index is given without slices_per_sample; pass both.")
    if slice_index.ndim != 1 or slice_index.is_floating_point():
        raise ValueError(
            f"slice_index has shape {tuple(slice_index.shape)} and type {slice_index.dtype}; "
            "expected a whole number per slice of the prompts."
        )
    if is_tracing(slice_index) or not slice_index.numel():
        return
    for found in (int(slice_index.min()), int(slice_index.max())):
        if not 0 <= found < num_slices:
            raise ValueError(f"slice_index names row {found} of {num_slices} slices.")


def check_text(
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    attention_mask: Any,
    position_ids: torch.Tensor | None,
    past_key_values: Any,
    text_config: Any,
) -> None:
    """Refuse text whose ids, vectors, mask and positions are not of one shape.

    Args:
        text_config: of the language model. Ids are compared with its `vocab_size` on the CPU
            alone, where that costs nothing.
        attention_mask: (batch, past + seq); what is no tensor of two dimensions is left to
            transformers.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Pass either input_ids or inputs_embeds.")
    tokens: Any = input_ids if inputs_embeds is None else inputs_embeds
    if is_tracing(tokens):
        return
    if inputs_embeds is None:
        if tokens.ndim != 2:
            raise ValueError(f"input_ids has shape {tuple(tokens.shape)}; expected (batch, seq).")
        vocab_size = text_config.vocab_size
        if tokens.device.type == "cpu" and tokens.numel():
            for found in (int(tokens.min()), int(tokens.max())):
                if not 0 <= found < vocab_size:
                    raise ValueError(
                        f"input_ids has the id {found}, and the model {vocab_size} tokens. Use the "
                        "tokenizer that came with the model."
                    )
    elif tokens.ndim != 3 or tokens.shape[2] != text_config.hidden_size:
        raise ValueError(
            f"inputs_embeds has shape {tuple(tokens.shape)}; expected (batch, seq, "
            f"{text_config.hidden_size})."
        )
    batch, seq = tokens.shape[:2]
    if position_ids is not None and (
        position_ids.ndim != 2
        or position_ids.shape[0] not in (1, batch)
        or position_ids.shape[1] != seq
    ):
        raise ValueError(
            f"position_ids has shape {tuple(position_ids.shape)}; expected ({batch}, {seq}), one "
            "position per token."
        )
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
        return
    past: Any = 0 if past_key_values is None else past_key_values.get_seq_length()
    is_known = not isinstance(past, torch.Tensor)  # a static cache counts on the device
    shape = tuple(attention_mask.shape)
    expected = (batch, (past if is_known else 0) + seq)
    if shape[0] != batch or (shape[1] != expected[1] if is_known else shape[1] < seq):
        cached = f" (of which {past} in the cache)" if is_known and past else ""
        raise ValueError(
            f"attention_mask has shape {shape}; expected {expected}, one column per token{cached}. "
            "Use the processor's, or leave it out."
        )


def check_labels(labels: torch.Tensor, logits: torch.Tensor) -> None:
    """Refuse labels that are not one per token of `logits` (batch, seq, vocabulary)."""
    if is_tracing(labels):
        return
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected {tuple(logits.shape[:2])}, one per "
            "token whose logits are computed, -100 where no loss is wanted."
        )


def check_placeholders(
    shape: Sequence[int],
    mm_token_type_ids: torch.Tensor | None,
    image_bound: Sequence[Any] | None,
) -> None:
    """Refuse places of visual tokens that are not those of a text of `shape` (batch, seq)."""
    batch, seq = shape[:2]
    if image_bound is not None:
        if len(image_bound) != batch:
            raise ValueError(
                f"image_bound has {len(image_bound)} entries for {batch} samples; expected one per "
                "sample, (num_slices, 2)."
            )
        if any(is_tracing(torch.as_tensor(bounds)) for bounds in image_bound):
            return
        for sample, bounds in enumerate(image_bound):
            rows = torch.as_tensor(bounds)
            if rows.numel() and (rows.ndim != 2 or rows.shape[1] != 2):
                raise ValueError(
                    f"image_bound of sample {sample} has shape {tuple(rows.shape)}; expected "
                    "(num_slices, 2), [start, end) of each run of placeholders."
                )
            for start, end in rows.reshape(-1, 2).tolist():
                if not 0 <= start < end <= seq:
                    raise ValueError(
                        f"image_bound of sample {sample} has [{start}, {end}), and the text {seq} "
                        "tokens; expected 0 <= start < end <= tokens."
                    )
    elif mm_token_type_ids is not None and tuple(mm_token_type_ids.shape) != (batch, seq):
        raise ValueError(
            f"mm_token_type_ids has shape {tuple(mm_token_type_ids.shape)}; expected "
            f"({batch}, {seq}), one per token."
        )


def check_images(
    pixel_values: Any,
    target_sizes: torch.Tensor | None,
    image_features: torch.Tensor | None,
    patch_features: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Refuse pictures that are given twice, in another layout, or in part.

    Returns:
        The one that is given, or None.
    """
    given = [x for x in (pixel_values, image_features, patch_features) if x is not None]
    images = given[0] if given else None
    if images is not None and not isinstance(images, torch.Tensor):
        raise ValueError(
            f"The pictures are {type(images).__name__}; expected one tensor with a row per slice. "
            "The released nested lists are taken by minicpmv.AutoModel's models."
        )
    if len(given) > 1:
        raise ValueError("Pass either pixel_values or image_features, or patch_features.")
    if images is None and target_sizes is not None:
        raise ValueError(
            "target_sizes are given without pixel_values; pass both as the processor returns them."
        )
    return images


def check_patch_features(patch_features: Any, target_sizes: Any, hidden_size: int) -> None:
    """Refuse features that are not (num_slices, max_patches, vision hidden) with their sizes."""
    shape = tuple(patch_features.shape)
    if len(shape) != 3 or shape[2] != hidden_size or target_sizes is None:
        raise ValueError(
            f"patch_features has shape {shape}; expected (num_slices, max_patches, {hidden_size}), "
            "as last_hidden_state of the vision tower, and target_sizes."
        )
    if target_sizes.shape != (shape[0], 2) or int(target_sizes.prod(dim=1).max()) > shape[1]:
        raise ValueError(
            f"target_sizes of shape {tuple(target_sizes.shape)} does not fit patch_features of "
            f"shape {shape}; expected one row (height, width) per slice, of at most {shape[1]} "
            "patches."
        )


def check_image_features(image_features: Any, query_num: int, hidden_size: int) -> None:
    """Refuse features that are not (num_slices, query_num, hidden)."""
    shape = tuple(image_features.shape)
    if len(shape) != 3 or shape[1:] != (query_num, hidden_size):
        raise ValueError(
            f"image_features has shape {shape}; expected (num_slices, {query_num}, {hidden_size}), "
            "as get_image_features(...).pooler_output."
        )


__all__ = [
    "check_image_features",
    "check_images",
    "check_labels",
    "check_patch_features",
    "check_placeholders",
    "check_slice_counts",
    "check_slice_shapes",
    "check_slice_sizes",
    "check_text",
]
