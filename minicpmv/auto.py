"""Import it for its effect: transformers' Auto classes know us, with no remote code.

An explicitly registered class wins over a checkpoint's `auto_map`, with and without
`trust_remote_code`.
"""

import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
)
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

# From its module: at the top of transformers it stands only where torchvision is installed.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .model import checkpoint_keys
from .model.configuration import MiniCPMVConfig, MiniCPMVVisionConfig
from .model.configuration_minicpm import MiniCPMConfig
from .model.minicpm import MiniCPMForCausalLM, MiniCPMForSequenceClassification, MiniCPMModel
from .model.modeling import MiniCPMVForConditionalGeneration, MiniCPMVModel
from .model.vision import MiniCPMVVisionModel
from .processing.image_processor import MiniCPMVImageProcessor, MiniCPMVImageProcessorPil
from .processing.processor import MiniCPMVProcessor
from .processing.tokenizer import MiniCPMVTokenizerFast
from .processing.video_processor import MiniCPMVVideoProcessor

AutoConfig.register("minicpmv", MiniCPMVConfig, exist_ok=True)
AutoConfig.register("minicpmv_vision", MiniCPMVVisionConfig, exist_ok=True)
AutoModel.register(MiniCPMVConfig, MiniCPMVModel, exist_ok=True)
AutoModel.register(MiniCPMVVisionConfig, MiniCPMVVisionModel, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(MiniCPMVConfig, MiniCPMVForConditionalGeneration, exist_ok=True)
checkpoint_keys.register()

AutoConfig.register("minicpm", MiniCPMConfig, exist_ok=True)
AutoModel.register(MiniCPMConfig, MiniCPMModel, exist_ok=True)
AutoModelForCausalLM.register(MiniCPMConfig, MiniCPMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    MiniCPMConfig, MiniCPMForSequenceClassification, exist_ok=True
)

AutoProcessor.register(MiniCPMVConfig, MiniCPMVProcessor, exist_ok=True)
AutoImageProcessor.register(
    MiniCPMVConfig,
    image_processor_classes={
        "pil": MiniCPMVImageProcessorPil,
        "torchvision": MiniCPMVImageProcessor,
    },
    exist_ok=True,
)
# Pipelines ask for one, always of the "torchvision" backend, and would offer to run the
# checkpoint's remote code to get it. Ours needs no torchvision.
AutoVideoProcessor.register(
    MiniCPMVConfig,
    video_processor_classes={
        "pil": MiniCPMVVideoProcessor,
        "torchvision": MiniCPMVVideoProcessor,
    },
    exist_ok=True,
)
# By name and not by config class: so ours is used even where remote code is allowed.
for name in ("MiniCPMVTokenizer", "MiniCPMVTokenizerFast"):
    REGISTERED_TOKENIZER_CLASSES[name] = MiniCPMVTokenizerFast

# Trainers and engines look a checkpoint's `architectures` up on the transformers module.
transformers.MiniCPMV = MiniCPMVForConditionalGeneration
transformers.MiniCPMVForConditionalGeneration = MiniCPMVForConditionalGeneration
for text_class in (MiniCPMForCausalLM, MiniCPMForSequenceClassification, MiniCPMModel):
    setattr(transformers, text_class.__name__, text_class)
