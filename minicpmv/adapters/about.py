"""What an adapter is, read from its small files and the header of its weights."""

import math
from typing import Any

from ..checkpoint.weights import all_headers
from .folder import AdapterFiles

_LORA = ".lora_"


def about_adapter(files: AdapterFiles) -> dict[str, Any]:
    """Everything `minicpmv info` shows of an adapter, as plain data. Its model is not read.

    Returns:
        The fields of `training_settings.json`, where this package has written it, are None in
        adapters of others.

    Raises:
        OSError: a file is damaged.
        ValueError: it does not name its model.
    """
    fields = files.fields()
    headers = all_headers([files.weights])
    sizes = {name: math.prod(shape) for name, (shape, _) in headers.items()}
    low_rank = sum(size for name, size in sizes.items() if _LORA in name)
    settings = files.settings
    return {
        "adapter": files.name,
        "kind": fields.get("peft_type"),
        "base_model": files.base(),
        "base_revision": files.revision() or settings.get("base_revision"),
        "release": settings.get("release"),
        "rank": fields.get("r"),
        "alpha": fields.get("lora_alpha"),
        "parts": settings.get("parts"),
        "parameters": {"low rank": low_rank, "whole": sum(sizes.values()) - low_rank},
        "tensors": len(sizes),
        "dtypes": sorted({dtype for _, dtype in headers.values()}),
        "max_slice_nums": settings.get("max_slice_nums"),
        "data": [str(file[0]) for file in settings.get("data") or ()],  # name, bytes, time
        "package": settings.get("package"),
    }


__all__ = ["about_adapter"]
