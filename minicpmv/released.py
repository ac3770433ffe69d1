"""The old name of `released_api`; adapters saved with it name their class here."""

import warnings

from .released_api import (
    MiniCPMForCausalLM,
    MiniCPMV,
    MiniCPMV2,
    MiniCPMVChat,
    img2base64,
)
from .released_auto import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

warnings.warn(
    "minicpmv.released is now minicpmv.released_api, and its loaders minicpmv.released_auto.",
    DeprecationWarning,
    stacklevel=2,
)

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoProcessor",
    "AutoTokenizer",
    "MiniCPMForCausalLM",
    "MiniCPMV",
    "MiniCPMV2",
    "MiniCPMVChat",
    "img2base64",
]
