"""Released parameter names and ours, one table.

Only renamings: engines that build on transformers apply those and skip anything that changes a
tensor.
"""

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

# (released, ours); anchored, so that a name inside another is left alone.
RENAMINGS = (
    ("llm.model", "model.language_model"),
    ("llm.lm_head", "lm_head"),
    ("vpm", "model.vision_tower"),
    ("resampler", "model.resampler"),
)


def to_released(name: str) -> str:
    """The released name of our parameter `name`; a name not in the table stays as it is."""
    for released, ours in RENAMINGS:
        if name == ours or name.startswith(f"{ours}."):
            return released + name.removeprefix(ours)
    return name


def register() -> None:
    """Teach transformers the table: loading renames, saving writes the released names back."""
    mapping = [
        WeightRenaming(
            rf"^{released}\.".replace(".model", r"\.model").replace(".lm", r"\.lm"), f"{ours}."
        )
        for released, ours in RENAMINGS
    ]
    register_checkpoint_conversion_mapping("minicpmv", mapping, overwrite=True)
