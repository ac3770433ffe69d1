"""Slices to visual tokens: the vision tower and the resampler, a group of slices at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .input_checks import (
    check_patch_features,
    check_slice_counts,
    check_slice_shapes,
    check_slice_sizes,
)
from .placeholders import longest_of_sample
from .released_parts import with_released_sizes


class SliceEncodingMixin:
    """The vision side of a model with `config`; list it before `PreTrainedModel`."""

    config: Any
    vision_tower: Any
    resampler: Any

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        target_sizes: torch.Tensor | None = None,
        slices_per_sample: list[int] | torch.Tensor | None = None,
        row_lengths: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode slices, `vision_config.batch_size` at a time.

        Args:
            pixel_values: (num_slices, channels, patch_size, patch_size * max_patches), zero-padded
                strips.
            target_sizes: (num_slices, 2), height and width of each slice in patches; also as
                `tgt_sizes` or `spatial_shapes`.
            slices_per_sample: where padding takes part in attention (release 2.5), how many rows
                belong to each sample, so that a sample does not depend on its batch mates. None:
                all rows are one sample's.
            row_lengths: instead of that, how many patches of each strip take part, padding
                included: (num_slices,). The strips may be shorter.

        Returns:
            `pooler_output` (num_slices, query_num, hidden) for the language model, and the tower's
            output.

        Raises:
            ValueError: the inputs disagree about the number of slices or patches.
        """
        target_sizes = with_released_sizes(target_sizes, kwargs)
        check_slice_shapes(pixel_values, target_sizes, self.config.vision_config)
        assert target_sizes is not None
        outputs, visual_tokens = [], []
        for rows, output in self._encoded(
            pixel_values, target_sizes, slices_per_sample, row_lengths, **kwargs
        ):
            visual_tokens.append(self.resampler(output.last_hidden_state, target_sizes[rows]))
            outputs.append(output)
        return BaseModelOutputWithPooling(
            last_hidden_state=_concatenate([output.last_hidden_state for output in outputs]),
            pooler_output=_concatenate(visual_tokens),
            hidden_states=_concatenate_layers([output.hidden_states for output in outputs]),
            attentions=_concatenate_layers([output.attentions for output in outputs]),
        )

    def get_patch_features(
        self,
        pixel_values: torch.Tensor,
        target_sizes: torch.Tensor,
        row_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the vision tower gives for each patch, for `resample`: (num_slices, max_patches,
        vision hidden); rows past a slice's own patches are meaningless. Arguments as of
        `get_image_features`."""
        check_slice_shapes(pixel_values, target_sizes, self.config.vision_config)
        groups = self._encoded(pixel_values, target_sizes, None, row_lengths)
        return _concatenate([output.last_hidden_state for _, output in groups])

    def _encoded(
        self,
        pixel_values: torch.Tensor,
        target_sizes: torch.Tensor,
        slices_per_sample: Any,
        row_lengths: torch.Tensor | None,
        **kwargs: Any,
    ) -> Iterator[tuple[slice, Any]]:
        """The tower's outputs of `vision_config.batch_size` slices at a time, and which slices."""
        tower_config = self.config.vision_config
        check_slice_sizes(pixel_values, target_sizes, tower_config.patch_size)
        num_slices = len(pixel_values)
        if not tower_config.attend_padding:
            row_lengths = None
        elif row_lengths is not None:
            pixel_values = _lengthened(pixel_values, int(row_lengths.max()), tower_config)
        else:
            # Padding takes part in attention: a sample's slices are padded to its own longest one.
            counts = [num_slices] if slices_per_sample is None else slices_per_sample
            check_slice_counts(counts, num_slices)
            row_lengths = longest_of_sample(target_sizes.prod(dim=1), counts)
        for start in range(0, num_slices, tower_config.batch_size):
            rows = slice(start, start + tower_config.batch_size)
            if row_lengths is not None:
                kwargs["row_lengths"] = row_lengths[rows]
            yield rows, self.vision_tower(pixel_values[rows], target_sizes[rows], **kwargs)

    def resample(self, patch_features: torch.Tensor, target_sizes: torch.Tensor) -> torch.Tensor:
        """Visual tokens of slices whose patches are encoded: (num_slices, query_num, hidden).

        Args:
            patch_features: (num_slices, max_patches, vision hidden), `last_hidden_state` of the
                tower; rows past a slice's own patches are ignored.
            target_sizes: (num_slices, 2).
        """
        check_patch_features(patch_features, target_sizes, self.config.vision_config.hidden_size)
        dtype = next(self.resampler.parameters()).dtype
        groups = range(0, len(patch_features), self.config.vision_config.batch_size)
        rows = [slice(start, start + self.config.vision_config.batch_size) for start in groups]
        return _concatenate(
            [self.resampler(patch_features[r].to(dtype), target_sizes[r]) for r in rows]
        )


def _lengthened(pixel_values: torch.Tensor, num_patches: int, vision_config: Any) -> torch.Tensor:
    """The strips, zero-padded to at least `num_patches`."""
    missing = num_patches * vision_config.patch_size - pixel_values.shape[3]
    return nn.functional.pad(pixel_values, (0, missing)) if missing > 0 else pixel_values


def _concatenate(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _concatenate_layers(parts: list[Any]) -> tuple[torch.Tensor, ...] | None:
    """Per layer, the slices of all parts; None where none were recorded."""
    if any(part is None for part in parts):
        return None
    return tuple(_concatenate(list(layer)) for layer in zip(*parts, strict=True))


__all__ = ["SliceEncodingMixin"]
