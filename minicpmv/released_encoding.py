"""Methods of the released classes that other programs call to encode pictures by themselves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .processing.packing import rows_per_slice
from .processing.pixels import fitted, normalise, patchify, value_table


class ReleasedEmbeddingsMixin:
    """`get_vllm_embedding` of 2.5 and 2.6."""

    model: Any
    config: Any
    device: torch.device
    get_input_embeddings: Any
    get_image_features: Any

    def get_vllm_embedding(
        self, data: Mapping[str, Any]
    ) -> tuple[torch.Tensor, list[torch.Tensor | list]]:
        """Text and pictures as vectors for the language model.

        Args:
            data: `input_ids` (batch, seq); `image_bound`, per sample (num_slices, 2); per sample
                `pixel_values`, a list of slices, and `tgt_sizes` (num_slices, 2), or
                `vision_hidden_states` as this method returns them.

        Returns:
            (batch, seq, hidden); per sample (num_slices, query_num, hidden), [] without pictures.
        """
        input_ids = data["input_ids"].to(self.device)
        embeds = self.get_input_embeddings()(input_ids)
        features = data.get("vision_hidden_states")
        if features is None:
            features = self._features_of(data)
        shown = [part for part in features if len(part)]
        if not shown:
            return embeds, list(features)
        flat = torch.cat(shown).to(embeds.device, embeds.dtype)
        mask = self.model.get_placeholder_mask(
            input_ids, None, data.get("mm_token_type_ids"), data.get("image_bound")
        )
        self.model.count_slices(mask, len(flat))
        return embeds.masked_scatter(mask[..., None], flat), list(features)

    def _features_of(self, data: Mapping[str, Any]) -> list[Any]:
        """Per sample (num_slices, query_num, hidden), [] without pictures."""
        counts = [len(sample) for sample in data["pixel_values"]]
        inputs = rows_per_slice(
            {"pixel_values": data["pixel_values"], "tgt_sizes": data["tgt_sizes"]}
        )
        if not inputs:
            return [[] for _ in counts]
        encoded = self.get_image_features(
            inputs["pixel_values"].to(self.device), inputs["target_sizes"].to(self.device), counts
        ).pooler_output
        return [part if len(part) else [] for part in encoded.split(counts)]


class ReleasedPicturesMixin(ReleasedEmbeddingsMixin):
    """The methods of 1.0 and 2.0, whose pixels are pictures and not strips of patches."""

    _processor_with: Any

    @property
    def transform(self) -> Callable[[Image.Image], torch.Tensor]:
        """From an RGB picture to its normalised pixels, (3, height, width)."""
        settings = self._processor_with(None, None).image_processor
        table = value_table(3, 1 / 255, tuple(settings.image_mean), tuple(settings.image_std))

        def pixels_of(image: Image.Image) -> torch.Tensor:
            image = image.convert("RGB")
            if settings.image_size is not None:
                side = settings.image_size
                image = settings.slice_image(image)[0] if image.size != (side, side) else image
            return torch.from_numpy(normalise(image, table))

        return pixels_of

    def slice_image(self, image: Image.Image) -> tuple[Any, list[list[Any]], list[int] | None]:
        """The overview, the cells row by row, and the grid as [columns, rows] or None."""
        return self._processor_with(None, None).image_processor.slice_image(image)

    def get_slice_image_placeholder(
        self, image: Image.Image, tokenizer: Any = None
    ) -> tuple[list[Image.Image], str]:
        """The pictures that an image is cut into, and the text that stands for them."""
        settings = self._processor_with(tokenizer, None).image_processor
        text = settings.get_slice_image_placeholder(image.size)
        if not settings.slice_mode and settings.image_size is None:
            return [image], text
        overview, rows, _ = settings.slice_image(image)
        return [overview, *(cell for row in rows for cell in row)], text

    def get_vision_embedding(self, pixel_values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Encode pictures.

        Args:
            pixel_values: (3, height, width) each, as `transform` returns them.

        Returns:
            (num_pictures, query_num, hidden)
        """
        patch = self.config.vision_config.patch_size
        strips, sizes = [], []
        for pixels in pixel_values:
            if pixels.ndim != 3:
                raise ValueError(
                    f"A picture has shape {tuple(pixels.shape)}; expected (3, height, width)."
                )
            rows, columns = (-(-side // patch) for side in pixels.shape[1:])
            array = np.asarray(pixels.detach().float().cpu())
            array = fitted(array, (rows * patch, columns * patch))
            strips.append(torch.from_numpy(patchify(array, patch)))
            sizes.append((rows, columns))
        inputs = rows_per_slice({"pixel_values": [strips], "tgt_sizes": torch.tensor(sizes)})
        return self.get_image_features(
            inputs["pixel_values"].to(self.device), inputs["target_sizes"].to(self.device)
        ).pooler_output

    def _features_of(self, data: Mapping[str, Any]) -> list[Any]:
        if "tgt_sizes" in data:
            return super()._features_of(data)
        return [
            self.get_vision_embedding(sample) if len(sample) else []
            for sample in data["pixel_values"]
        ]


__all__ = ["ReleasedEmbeddingsMixin", "ReleasedPicturesMixin"]
