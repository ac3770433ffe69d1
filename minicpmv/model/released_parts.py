"""Parts of the model under the names of the released classes: `llm`, `vpm`, `resampler`.

They are views: the same modules as `model.language_model`, `model.vision_tower` and
`model.resampler`, and neither in `state_dict()` nor in `named_parameters()` a second time.
"""

from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel


class ReleasedPartsMixin:
    """`llm`, `vpm` and `resampler` of a model with a head; list it before `PreTrainedModel`."""

    model: Any
    lm_head: nn.Linear
    config: Any
    generation_config: Any
    training: bool

    @property
    def vpm(self) -> PreTrainedModel:
        """The vision tower."""
        return self.model.vision_tower

    @property
    def resampler(self) -> nn.Module:
        """The resampler."""
        return self.model.resampler

    @property
    def llm(self) -> PreTrainedModel:
        """The language model with its head, as a causal language model of its own.

        One difference from the released one: the embeddings of MiniCPM scale their vectors, so
        those of `llm.get_input_embeddings()` are not to be multiplied by `scale_emb` again.
        """
        decoder, head = self.model.language_model, self.lm_head
        # Beside the registered modules, so that no tensor has two names.
        llm = self.__dict__.get("_llm")
        if llm is None or llm.model is not decoder or llm.lm_head is not head:
            with torch.device("meta"):  # only its forward pass is needed, no weights
                llm = MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder.config)](decoder.config)
            llm.model, llm.lm_head = decoder, head
            llm.generation_config = self.generation_config
            self.__dict__["_llm"] = llm
        llm.training = self.training
        return llm


def with_released_sizes(
    target_sizes: torch.Tensor | None, keywords: dict[str, Any]
) -> torch.Tensor | None:
    """`target_sizes`, also under other names, which are taken out of `keywords`.

    These are `tgt_sizes`, the released one, and `spatial_shapes`, which trainers know. What comes
    with the latter, `pixel_attention_mask`, says nothing that the sizes do not.

    Raises:
        ValueError: several are given.
    """
    keywords.pop("pixel_attention_mask", None)
    names = ("tgt_sizes", "spatial_shapes")
    others = [(name, keywords.pop(name, None)) for name in names]
    given = [("target_sizes", target_sizes), *others]
    given = [(name, sizes) for name, sizes in given if sizes is not None]
    if len(given) > 1:
        found = " or ".join(name for name, _ in given)
        raise ValueError(f"Pass either {found}, which are names of the same sizes.")
    return given[0][1] if given else None


__all__ = ["ReleasedPartsMixin", "with_released_sizes"]
