"""Where visual tokens go in a text: the places that a batch names, or those between its tags."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.utils.import_utils import is_tracing

from .input_checks import check_placeholders


class PlaceholderMixin:
    """Placeholders of a model with `config`: where they are, how many, and none without pictures.
    List it before `PreTrainedModel`.
    """

    config: Any
    get_input_embeddings: Any

    def get_placeholder_mask(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        image_bound: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """Where visual tokens go: (batch, seq), bool.

        Args:
            input_ids: (batch, seq), or `inputs_embeds` (batch, seq, hidden) instead.
            mm_token_type_ids: (batch, seq), above 0 at placeholders.
            image_bound: per sample (num_slices, 2), [start, end) of each run of placeholders.

        Raises:
            ValueError: nothing tells where the placeholders are.
        """
        tokens: Any = input_ids if input_ids is not None else inputs_embeds
        check_placeholders(tokens.shape, mm_token_type_ids, image_bound)
        if image_bound is not None:
            return mask_of_bounds(image_bound, tokens.shape, tokens.device)
        if mm_token_type_ids is not None:
            return mm_token_type_ids > 0
        if self.config.image_token_id is None:
            raise ValueError(
                "Pictures were given, but nothing tells where they go in the text: pass "
                "mm_token_type_ids or image_bound as MiniCPMVProcessor returns them, or set "
                "config.image_token_id."
            )

        def is_token(token_id: int) -> torch.Tensor:
            if input_ids is not None:
                return torch.eq(input_ids, token_id)
            token = torch.tensor(token_id, device=tokens.device)
            return torch.eq(tokens, self.get_input_embeddings()(token)).all(dim=-1)

        return mask_of_tags(self.config, is_token)

    def count_slices(self, placeholders: torch.Tensor, num_slices: int) -> list[int]:
        """How many of the `num_slices` slices are each sample's, by its placeholders.

        Raises:
            ValueError: placeholders and visual tokens differ in number.
        """
        query_num = self.config.query_num
        counts = placeholders.sum(dim=1).tolist()
        if sum(counts) != num_slices * query_num or any(n % query_num for n in counts):
            raise ValueError(
                f"The text has {sum(counts)} placeholders ({counts} per sample) and the pictures "
                f"give {num_slices * query_num} visual tokens ({num_slices} slices x {query_num}). "
                "Use one processor call for both, and do not truncate its input_ids."
            )
        return [count // query_num for count in counts]

    def check_text_alone(
        self,
        inputs_embeds: torch.Tensor,
        mm_token_type_ids: torch.Tensor | None,
        image_bound: Sequence[Any] | None,
    ) -> None:
        """Refuse named placeholders without pictures. Ids alone name none: a placeholder between
        tags may be text, as transformers' own suites have it."""
        is_named = image_bound is not None or mm_token_type_ids is not None
        if not is_named or is_tracing(inputs_embeds):
            return
        mask = self.get_placeholder_mask(None, inputs_embeds, mm_token_type_ids, image_bound)
        if bool(mask.any()):
            raise ValueError(
                f"The text has {int(mask.sum())} image placeholders, and no picture was given. "
                "Pass pixel_values and target_sizes of the same processor call, or image_features."
            )


def mask_of_bounds(
    image_bound: Sequence[Any], shape: Sequence[int], device: torch.device
) -> torch.Tensor:
    """(batch, seq), true from each start to before its end.

    Args:
        image_bound: per sample (num_slices, 2), [start, end) of each run of placeholders.
        shape: (batch, seq).
    """
    index = torch.arange(shape[1], device=device)
    rows = []
    for bounds in image_bound:
        start, end = torch.as_tensor(bounds, device=device).reshape(-1, 2)[..., None].unbind(1)
        rows.append(((index >= start) & (index < end)).any(dim=0))
    return torch.stack(rows)


def mask_of_tags(config: Any, is_token: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """(batch, seq), true at placeholders that stand between the tags of a picture.

    Args:
        config: with `image_token_id` and the ids of the tags, which may be None.
        is_token: where a token of this id stands, (batch, seq).
    """
    mask = is_token(config.image_token_id)
    if config.image_start_id is not None:
        opens, closes = is_token(config.image_start_id), is_token(config.image_end_id)
        if config.slice_start_id is not None:
            opens = opens | is_token(config.slice_start_id)
            closes = closes | is_token(config.slice_end_id)
        mask = mask & ((opens.cumsum(1) - closes.cumsum(1)) > 0)
    return mask


def longest_of_sample(num_patches: torch.Tensor, counts: Any) -> torch.Tensor:
    """For each slice, the most patches that a slice of its sample has: (num_slices,).

    Args:
        num_patches: (num_slices,).
        counts: (batch,), how many slices are each sample's, in order.
    """
    counts = torch.as_tensor(counts, device=num_patches.device)
    index = torch.arange(len(num_patches), device=num_patches.device)
    sample = torch.searchsorted(counts.cumsum(0), index, right=True)  # (num_slices,)
    # Under a trace nothing has checked that the counts add up.
    sample = sample.clamp(max=len(counts) - 1)
    longest = torch.zeros_like(counts).scatter_reduce(0, sample, num_patches, "amax")
    return longest[sample]


__all__ = ["PlaceholderMixin", "longest_of_sample", "mask_of_bounds", "mask_of_tags"]
