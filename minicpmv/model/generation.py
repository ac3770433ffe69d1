"""Pictures in `generate`: encoded once, kept with their sample, dropped once a cache has them."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin

from .released_parts import with_released_sizes


class ImageGenerationMixin(GenerationMixin):
    """What `generate` does with a model's image inputs; list it before `PreTrainedModel`."""

    model: Any

    def _prefill(
        self,
        input_ids: torch.Tensor,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        is_first_iteration: bool = True,
    ) -> Any:
        # In pieces, some versions of transformers drop the pictures without a word.
        names = ("pixel_values", "image_features")
        has_pictures = any(model_kwargs.get(name) is not None for name in names)
        if generation_config.prefill_chunk_size is not None and has_pictures:
            raise ValueError(
                f"prefill_chunk_size={generation_config.prefill_chunk_size} cannot be used with "
                "pictures, which need the whole prompt at once. Leave it out."
            )
        return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        target_sizes: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        # Renamed before; `generate` takes what is named here.
        tgt_sizes: None = None,
        spatial_shapes: None = None,
        pixel_attention_mask: None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # With a cache, the pictures are part of it after the first step. A draft model's first
        # step is not called one, but its cache is empty.
        length = None if past_key_values is None else past_key_values.get_seq_length()
        is_empty = isinstance(length, int) and length == 0  # a static cache counts on the device
        shows_pictures = is_first_iteration or is_empty or not kwargs.get("use_cache", True)
        if shows_pictures and mm_token_type_ids is not None:
            tokens: Any = input_ids
            if is_first_iteration and inputs_embeds is not None:
                tokens = inputs_embeds
            mm_token_type_ids = _followed_by_text(mm_token_type_ids, tokens.shape[1])
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            mm_token_type_ids=mm_token_type_ids if shows_pictures else None,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        types = model_inputs.get("mm_token_type_ids")
        if shows_pictures and past_key_values is not None and types is not None:
            # A cache that the caller brings may hold the pictures already.
            tokens = model_inputs.get("input_ids")
            tokens = model_inputs["inputs_embeds"] if tokens is None else tokens
            types = types[:, -tokens.shape[1] :]  # transformers 5.19 leaves it uncut
            model_inputs["mm_token_type_ids"] = types
            shows_pictures = is_empty or bool(types.any())
        if shows_pictures:
            model_inputs |= {
                "pixel_values": pixel_values,
                "target_sizes": target_sizes,
                "image_features": image_features,
            }
        return model_inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Copies of every sample, for beams and `num_return_sequences`.

        A sample's slices stay together, and are encoded once, before they are copied. However the
        placeholders were given, `mm_token_type_ids` says where they are from here on.
        """
        image_bound = model_kwargs.pop("image_bound", None)
        names = ("pixel_values", "target_sizes", "image_features")
        images = {name: model_kwargs.pop(name, None) for name in names}
        images["target_sizes"] = with_released_sizes(images["target_sizes"], model_kwargs)
        features, pixel_values = images["image_features"], images["pixel_values"]
        if features is not None or pixel_values is not None:
            embeds = model_kwargs.get("inputs_embeds")
            tokens: Any = input_ids if embeds is None else embeds
            types = model_kwargs.get("mm_token_type_ids")
            if types is not None:
                types = _followed_by_text(types, tokens.shape[1])
            mask = self.model.get_placeholder_mask(
                input_ids if embeds is None else None,
                embeds,
                types,
                image_bound,
            )
            model_kwargs["mm_token_type_ids"] = mask.long()
            if expand_size > 1:
                num_slices = len(pixel_values if features is None else features)
                slices_per_sample = self.model.count_slices(mask, num_slices)
                if features is None:
                    features = self.model.get_image_features(
                        pixel_values, images["target_sizes"], slices_per_sample, return_dict=True
                    ).pooler_output
                samples = features.split(slices_per_sample)
                images = {
                    "image_features": torch.cat(
                        [sample for sample in samples for _ in range(expand_size)]
                    )
                }
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size,
            is_encoder_decoder=is_encoder_decoder,
            input_ids=input_ids,
            **model_kwargs,
        )
        given = {name: value for name, value in images.items() if value is not None}
        return input_ids, model_kwargs | given


def _followed_by_text(mm_token_type_ids: torch.Tensor, length: int) -> torch.Tensor:
    """What follows the prompt is text, such as tokens that a draft model proposes."""
    num_new = max(0, length - mm_token_type_ids.shape[1])
    return nn.functional.pad(mm_token_type_ids, (0, num_new))


__all__ = ["ImageGenerationMixin"]
