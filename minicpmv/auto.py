"""Register our classes with transformers' Auto classes; import it for its effect.

An explicitly registered class wins over a checkpoint's `auto_map`, with and without
`trust_remote_code`.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

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
    AutoTokenizer,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    REGISTERED_TOKENIZER_CLASSES,
    TOKENIZER_MAPPING_NAMES,
)

# From its module: at the top of transformers it stands only where torchvision is installed.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.utils import CONFIG_NAME

from .checkpoint.hub import Checkpoint
from .integrations import peft as peft_integration
from .model import checkpoint_keys
from .model.configuration import (
    MiniCPMVConfig,
    MiniCPMVVisionConfig,
    MiniCPMVViTConfig,
    OmniLMMConfig,
)
from .model.configuration_minicpm import MiniCPMConfig
from .model.minicpm import MiniCPMForCausalLM, MiniCPMForSequenceClassification, MiniCPMModel
from .model.modeling import (
    MiniCPMVForConditionalGeneration,
    MiniCPMVModel,
    OmniLMMForConditionalGeneration,
    OmniLMMModel,
)
from .model.vision import MiniCPMVVisionModel
from .model.vit import MiniCPMVViTModel
from .newer_releases import REMOTE_TYPE, is_newer, leaving_newer, remember_tables
from .processing.file_checks import check_processor_files, check_tokenizer_files
from .processing.image_processor import MiniCPMVImageProcessor, MiniCPMVImageProcessorPil
from .processing.image_settings import settings_without_file
from .processing.processor import MiniCPMVProcessor
from .processing.tokenizer import MiniCPMTokenizerFast, MiniCPMVTokenizerFast
from .processing.video_processor import MiniCPMVVideoProcessor
from .releases import model_type_of

for config_class, model_class in (
    (MiniCPMVConfig, MiniCPMVModel),
    (MiniCPMVVisionConfig, MiniCPMVVisionModel),
    (MiniCPMVViTConfig, MiniCPMVViTModel),
    (OmniLMMConfig, OmniLMMModel),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(MiniCPMVConfig, MiniCPMVForConditionalGeneration, exist_ok=True)
    auto_class.register(OmniLMMConfig, OmniLMMForConditionalGeneration, exist_ok=True)
checkpoint_keys.register()

AutoConfig.register("minicpm", MiniCPMConfig, exist_ok=True)
AutoModel.register(MiniCPMConfig, MiniCPMModel, exist_ok=True)
AutoModelForCausalLM.register(MiniCPMConfig, MiniCPMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    MiniCPMConfig, MiniCPMForSequenceClassification, exist_ok=True
)


def _read_config(name_or_path: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a folder; empty where there is none, and for names on the hub.

    Raises:
        OSError, ValueError: it cannot be read; the message names it.
    """
    checkpoint = Checkpoint.at(name_or_path, kwargs)
    if not checkpoint.is_folder or checkpoint.find_file(CONFIG_NAME) is None:
        return {}
    return checkpoint.read_json(CONFIG_NAME)


def _tell_text_models(read_file: Any) -> Any:
    """`PreTrainedConfig.get_config_dict` that fills in the `model_type` of MiniCPM text models.

    Their config.json has none, which is all that AutoConfig goes by, and no registry can say so.
    A file that has one, or that names other architectures, stays as it is.
    """

    def get_config_dict(cls: Any, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        path = pretrained_model_name_or_path
        try:
            fields, rest = read_file(cls, path, **kwargs)
        except (OSError, ValueError, TypeError, AttributeError):
            _read_config(path, kwargs)  # says what is wrong with the file
            raise
        if not isinstance(fields, dict):
            _read_config(path, kwargs)
        if "model_type" not in fields and model_type_of(fields):
            fields["model_type"] = model_type_of(fields)
        elif cls is PreTrainedConfig and is_newer(fields):
            fields["model_type"] = REMOTE_TYPE
        return fields, rest

    get_config_dict._tells_text_models = True  # type: ignore[attr-defined]
    return classmethod(get_config_dict)


if not hasattr(PreTrainedConfig.get_config_dict, "_tells_text_models"):  # a reload of this module
    PreTrainedConfig.get_config_dict = _tell_text_models(PreTrainedConfig.get_config_dict.__func__)

# `transformers serve`, Trainer and TRL look up the task of a model by the name of its class in
# these tables; `register` does not fill them.
for table, model_type, name in (
    ("IMAGE_TEXT_TO_TEXT", "minicpmv", "MiniCPMVForConditionalGeneration"),
    ("IMAGE_TEXT_TO_TEXT", "omnilmm", "OmniLMMForConditionalGeneration"),
    ("MULTIMODAL_LM", "minicpmv", "MiniCPMVForConditionalGeneration"),
    ("MULTIMODAL_LM", "omnilmm", "OmniLMMForConditionalGeneration"),
    ("CAUSAL_LM", "minicpm", "MiniCPMForCausalLM"),
    ("SEQUENCE_CLASSIFICATION", "minicpm", "MiniCPMForSequenceClassification"),
):
    getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES")[model_type] = name

for config_class in (MiniCPMVConfig, OmniLMMConfig):
    AutoProcessor.register(config_class, MiniCPMVProcessor, exist_ok=True)
    AutoImageProcessor.register(
        config_class,
        image_processor_classes={
            "pil": MiniCPMVImageProcessorPil,
            "torchvision": MiniCPMVImageProcessor,
        },
        exist_ok=True,
    )
    # Pipelines ask for one, always of the "torchvision" backend, and would offer to run the
    # checkpoint's remote code to get it. Ours needs no torchvision.
    AutoVideoProcessor.register(
        config_class,
        video_processor_classes={
            "pil": MiniCPMVVideoProcessor,
            "torchvision": MiniCPMVVideoProcessor,
        },
        exist_ok=True,
    )
# By name and not by config class: so ours is used even where remote code is allowed.
for name in ("MiniCPMVTokenizer", "MiniCPMVTokenizerFast", "LlamaTokenizerWrapper"):
    REGISTERED_TOKENIZER_CLASSES[name] = MiniCPMVTokenizerFast
for name in ("MiniCPMTokenizer", "MiniCPMTokenizerFast"):
    REGISTERED_TOKENIZER_CLASSES[name] = MiniCPMTokenizerFast
_TOKENIZER_BEFORE = TOKENIZER_MAPPING_NAMES.get("minicpmv")
if _TOKENIZER_BEFORE == "MiniCPMVTokenizerFast":  # a reload of this module
    _TOKENIZER_BEFORE = "TokenizersBackend"
# Some checkpoints name LlamaTokenizer, and transformers' class of today gives other ids.
for model_type, name in (
    ("minicpm", "MiniCPMTokenizerFast"),
    ("minicpmv", "MiniCPMVTokenizerFast"),
    ("omnilmm", "MiniCPMVTokenizerFast"),
):
    TOKENIZER_MAPPING_NAMES[model_type] = name
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add(model_type)


def _also_without_file(auto_class: Any, processor_class: Any) -> Any:
    """`auto_class.from_pretrained` for 1.0, 2.0 and OmniLMM-12B too: they have no
    `preprocessor_config.json`, which transformers asks for before it asks who reads it, so that
    nothing in our classes can answer."""
    from_file = auto_class.from_pretrained
    if hasattr(from_file, "_knows_releases_without_file"):  # a reload of this module
        return staticmethod(from_file)

    def from_pretrained(name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return from_file(name_or_path, *args, **kwargs)
        except OSError:
            if settings_without_file(name_or_path, **kwargs) is None:
                raise
        for unused in ("backend", "config", "trust_remote_code", "use_fast"):
            kwargs.pop(unused, None)
        return processor_class.from_pretrained(name_or_path, *args, **kwargs)

    from_pretrained._knows_releases_without_file = True  # type: ignore[attr-defined]
    return staticmethod(from_pretrained)


_OUR_TYPES = ("minicpm", "minicpmv", "omnilmm")


def _with_checked_files(auto_class: Any, check: Callable[[Checkpoint], None]) -> Any:
    """`auto_class.from_pretrained` that names the file of a model of ours that is missing or cut.

    transformers reads the small files before it asks whose they are, so our classes cannot.
    """
    from_files = auto_class.from_pretrained
    if hasattr(from_files, "_checks_files"):  # a reload of this module
        return staticmethod(from_files)

    def from_pretrained(name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        fields = _read_config(name_or_path, kwargs)
        if model_type_of(fields) in _OUR_TYPES and not is_newer(fields):
            check(Checkpoint.at(name_or_path, kwargs))
        return from_files(name_or_path, *args, **kwargs)

    from_pretrained._checks_files = True  # type: ignore[attr-defined]
    return staticmethod(from_pretrained)


AutoTokenizer.from_pretrained = _with_checked_files(AutoTokenizer, check_tokenizer_files)
AutoProcessor.from_pretrained = _with_checked_files(AutoProcessor, check_processor_files)
AutoImageProcessor.from_pretrained = _also_without_file(AutoImageProcessor, MiniCPMVImageProcessor)
AutoVideoProcessor.from_pretrained = _also_without_file(AutoVideoProcessor, MiniCPMVVideoProcessor)

remember_tables(_TOKENIZER_BEFORE)
for auto_class in (AutoTokenizer, AutoProcessor, AutoImageProcessor, AutoVideoProcessor):
    if not hasattr(auto_class.from_pretrained, "_leaves_newer"):  # a reload of this module
        auto_class.from_pretrained = staticmethod(
            leaving_newer(auto_class.from_pretrained, _read_config)
        )

# Trainers and engines look a checkpoint's `architectures` up on the transformers module. Loading
# its processors puts a second copy of that module in place of the first, and both are in use.
for model_class, names in (
    (MiniCPMVForConditionalGeneration, ("MiniCPMV", "MiniCPMVForConditionalGeneration")),
    (OmniLMMForConditionalGeneration, ("OmniLMMForCausalLM", "OmniLMMForConditionalGeneration")),
    (MiniCPMForCausalLM, ("MiniCPMForCausalLM",)),
    (MiniCPMForSequenceClassification, ("MiniCPMForSequenceClassification",)),
    (MiniCPMModel, ("MiniCPMModel",)),
):
    for name in names:
        setattr(transformers, name, model_class)
        setattr(sys.modules["transformers"], name, model_class)

peft_integration.install()
