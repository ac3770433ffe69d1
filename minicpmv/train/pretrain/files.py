"""The small files of a checkpoint that training does not change, in the released layout of 2.6."""

import json
from pathlib import Path
from typing import Any

from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.checkpoint.token_ids import added_token_ids
from minicpmv.releases import NANO_GENERATION, RELEASES
from minicpmv.train.pretrain.recipe import MAX_SLICES


def preprocessor_config(num_queries: int, scale_resolution: int) -> dict[str, Any]:
    """`preprocessor_config.json`, as the model was trained."""
    return {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "max_slice_nums": MAX_SLICES,
        "scale_resolution": scale_resolution,
        "patch_size": 14,
        "use_image_id": True,
        "image_feature_size": num_queries,
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
        "im_id_start": "<image_id>",
        "im_id_end": "</image_id>",
        "slice_mode": True,
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
        "version": 2.6,
    }


def write_processor_files(folder: Path, num_queries: int, scale_resolution: int) -> None:
    """Write `preprocessor_config.json` and `generation_config.json` beside a tokenizer."""
    ids = added_token_ids(Checkpoint.at(folder, {}), RELEASES["2.6"].terminators)
    files = {
        "preprocessor_config.json": preprocessor_config(num_queries, scale_resolution),
        "generation_config.json": NANO_GENERATION | {"eos_token_id": list(ids.values())},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
