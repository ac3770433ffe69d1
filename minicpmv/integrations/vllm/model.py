"""The model as vLLM runs it: its backend for transformers, with our way to encode slices.

The backend takes the decoder's attention and linear layers over; the vision tower and the resampler
run as they are.
"""

from typing import Any

import torch
from torch import nn
from vllm.model_executor.models.transformers import TransformersMultiModalForCausalLM
from vllm.multimodal import MULTIMODAL_REGISTRY

from .processing import FIELDS, MiniCPMVDummyInputs, MiniCPMVInfo, MiniCPMVMultiModalProcessor
from .tokenizer import MARKERS


@MULTIMODAL_REGISTRY.register_processor(
    MiniCPMVMultiModalProcessor, info=MiniCPMVInfo, dummy_inputs=MiniCPMVDummyInputs
)
class MiniCPMVForVllm(TransformersMultiModalForCausalLM):
    """MiniCPM-V 1.0, 2.0, 2.5, 2.6, OmniLMM-12B and nano."""

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return MARKERS.get(modality)

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor]:
        """Visual tokens of each picture or video: (num_slices * query_num, hidden)."""
        found: list[torch.Tensor] = []
        for names in FIELDS.values():
            if names[0] in kwargs:
                found += self._encoded(*(list(kwargs[name]) for name in names[:3]))
        return found

    def _encoded(
        self, pixels: list[torch.Tensor], sizes: list[torch.Tensor], lengths: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        tower = self.model.vision_tower
        device = pixels[0].device
        longest = max(rows.shape[-1] for rows in pixels)
        pixel_values = torch.cat(
            [nn.functional.pad(rows, (0, longest - rows.shape[-1])) for rows in pixels]
        )
        row_lengths = torch.cat(lengths).to(device)
        features = self.model.get_image_features(
            pixel_values.to(next(tower.parameters()).dtype),
            torch.cat(sizes).to(device),
            row_lengths=row_lengths if tower.config.attend_padding else None,
            return_dict=True,
        ).pooler_output
        return [rows.flatten(0, 1) for rows in features.split([len(rows) for rows in pixels])]
