"""Pictures and text to a `BatchFeature`: slicing, placeholders, pixels, chat templates, the processor."""

from .image_processor import MiniCPMVImageProcessor, MiniCPMVImageProcessorPil
from .processor import MiniCPMVProcessor
from .tokenizer import MiniCPMVTokenizer, MiniCPMVTokenizerFast

__all__ = [
    "MiniCPMVImageProcessor",
    "MiniCPMVImageProcessorPil",
    "MiniCPMVProcessor",
    "MiniCPMVTokenizer",
    "MiniCPMVTokenizerFast",
]
