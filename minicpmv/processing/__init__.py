"""Pictures and text to a `BatchFeature`: slicing, placeholders, pixels, templates, processor.

The classes are found on first touch, so that `slicing` and `placeholders` come without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .image_processor import MiniCPMVImageProcessor, MiniCPMVImageProcessorPil
    from .processor import MiniCPMVProcessor
    from .tokenizer import MiniCPMVTokenizer, MiniCPMVTokenizerFast
    from .video_processor import MiniCPMVVideoProcessor

_HOMES = {
    "MiniCPMVImageProcessor": "image_processor",
    "MiniCPMVImageProcessorPil": "image_processor",
    "MiniCPMVProcessor": "processor",
    "MiniCPMVTokenizer": "tokenizer",
    "MiniCPMVTokenizerFast": "tokenizer",
    "MiniCPMVVideoProcessor": "video_processor",
}

__all__ = [
    "MiniCPMVImageProcessor",
    "MiniCPMVImageProcessorPil",
    "MiniCPMVProcessor",
    "MiniCPMVTokenizer",
    "MiniCPMVTokenizerFast",
    "MiniCPMVVideoProcessor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minicpmv.processing' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
