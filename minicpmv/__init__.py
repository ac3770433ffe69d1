"""The MiniCPM-V family of vision-language models as native transformers classes.

Importing the package is instant: every public name is found on first touch, and torch is loaded
only then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .moved import keep_former_names
from .version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from .chat import Answer, AnswerStream, BatchError, Chat
    from .conversation import Conversation
    from .decisions.calibration import Calibration
    from .decisions.decision import Decision
    from .decisions.question import Question
    from .engine.constraints import Constraint
    from .engine.limits import EngineLimits, QueueFullError
    from .loader import load
    from .media.policy import MediaPolicy
    from .model.configuration import MiniCPMVConfig, MiniCPMVVisionConfig, OmniLMMConfig
    from .model.modeling import (
        MiniCPMVForConditionalGeneration,
        MiniCPMVModel,
        OmniLMMForConditionalGeneration,
    )
    from .processing.image_processor import MiniCPMVImageProcessor, MiniCPMVImageProcessorPil
    from .processing.processor import MiniCPMVProcessor
    from .released_api import MiniCPMV, MiniCPMVChat, img2base64
    from .released_auto import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

_HOMES = {
    "Answer": "chat",
    "AnswerStream": "chat",
    "AutoModel": "released_auto",
    "AutoModelForCausalLM": "released_auto",
    "AutoProcessor": "released_auto",
    "AutoTokenizer": "released_auto",
    "BatchError": "chat",
    "Calibration": "decisions.calibration",
    "Chat": "chat",
    "Constraint": "engine.constraints",
    "Conversation": "conversation",
    "Decision": "decisions.decision",
    "EngineLimits": "engine.limits",
    "MediaPolicy": "media.policy",
    "MiniCPMV": "released_api",
    "MiniCPMVChat": "released_api",
    "MiniCPMVConfig": "model.configuration",
    "MiniCPMVForConditionalGeneration": "model.modeling",
    "MiniCPMVImageProcessor": "processing.image_processor",
    "MiniCPMVImageProcessorPil": "processing.image_processor",
    "MiniCPMVModel": "model.modeling",
    "MiniCPMVProcessor": "processing.processor",
    "MiniCPMVVisionConfig": "model.configuration",
    "OmniLMMConfig": "model.configuration",
    "OmniLMMForConditionalGeneration": "model.modeling",
    "Question": "decisions.question",
    "QueueFullError": "engine.limits",
    "img2base64": "released_api",
    "load": "loader",
}

__all__ = [*sorted(_HOMES), "__version__"]

keep_former_names()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minicpmv' has no attribute {name!r}")
    if _HOMES[name].startswith(("model.", "processing.")):
        import_module(".auto", __name__)  # transformers reads our files only if it knows us
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
