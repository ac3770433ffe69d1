"""Released parameter names and ours, one table.

Only renamings: engines that build on transformers apply those and skip anything that changes a
tensor.
"""

import re

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

# By model type: (released, ours); anchored, so that a name inside another is left alone.
RENAMINGS = {
    "minicpmv": (
        ("llm.model", "model.language_model"),
        ("llm.lm_head", "lm_head"),
        ("vpm", "model.vision_tower"),
        ("resampler", "model.resampler"),
    ),
    "omnilmm": (
        ("model.embed_tokens", "model.language_model.embed_tokens"),
        ("model.layers", "model.language_model.layers"),
        ("model.norm", "model.language_model.norm"),
    ),
}


def to_released(name: str, model_type: str = "minicpmv") -> str:
    """The released name of our parameter `name`; a name not in the table stays as it is."""
    for released, ours in RENAMINGS[model_type]:
        if name == ours or name.startswith(f"{ours}."):
            return released + name.removeprefix(ours)
    return name


def register() -> None:
    """Register the table with transformers: loading renames, saving writes released names."""
    for model_type, renamings in RENAMINGS.items():
        mapping = [
            WeightRenaming(rf"^{re.escape(released)}\.", f"{ours}.") for released, ours in renamings
        ]
        register_checkpoint_conversion_mapping(model_type, mapping, overwrite=True)
