"""Which architectures are ours in vLLM's tables.

Released files of 2.0 to 4.5 all say `MiniCPMV`. That name stays vLLM's, which serves 4.0 and 4.5;
configs of our releases, which are our own classes, say another one to vLLM.
"""

from typing import Any

from ...model.configuration import MiniCPMVConfig, OmniLMMConfig
from ...model.configuration_minicpm import MiniCPMConfig
from .versions import installed_version, refusal

_HERE = "minicpmv.integrations.vllm"
# Our config class, the architecture that vLLM is told, and other names that only we have.
ARCHITECTURES: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
    (MiniCPMVConfig, "MiniCPMVForConditionalGeneration", ()),
    (OmniLMMConfig, "OmniLMMForConditionalGeneration", ("OmniLMMForCausalLM",)),
)
# vLLM's own class for the text models.
TEXT_ARCHITECTURE = "MiniCPMForCausalLM"
TOKENIZER_MODE = "minicpmv"


def register_all() -> None:
    """Fill vLLM's tables; may be called again."""
    import minicpmv.auto  # noqa: F401

    reason = refusal(installed_version())
    if reason is not None:
        for config_class in (MiniCPMVConfig, OmniLMMConfig, MiniCPMConfig):
            _refuse(config_class, reason)
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from .settings import MiniCPMSettings, MiniCPMVSettings, complete_terminators

    for config_class, architecture, others in ARCHITECTURES:
        tell_architecture(config_class, architecture)
        for name in (architecture, *others):
            ModelRegistry.register_model(name, f"{_HERE}.model:MiniCPMVForVllm")
            MODELS_CONFIG_MAP[name] = MiniCPMVSettings
    MODELS_CONFIG_MAP[TEXT_ARCHITECTURE] = MiniCPMSettings
    # Into the tables themselves: `register` warns of what is there, and this may run again.
    TokenizerRegistry.tokenizers[TOKENIZER_MODE] = (f"{_HERE}.tokenizer", "MarkingTokenizer")
    RENDERER_REGISTRY.renderers[TOKENIZER_MODE] = (f"{_HERE}.renderer", "MiniCPMVRenderer")
    complete_terminators()


def tell_architecture(config_class: Any, architecture: str) -> None:
    """Let configs of a class that are read from files name this architecture alone."""
    read = config_class.from_dict.__func__
    if hasattr(read, "_tells_architecture"):
        return

    def from_dict(cls: Any, *args: Any, **kwargs: Any) -> Any:
        found = read(cls, *args, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        config.architectures = [architecture]
        return found

    from_dict._tells_architecture = True  # type: ignore[attr-defined]
    config_class.from_dict = classmethod(from_dict)


def _refuse(config_class: Any, reason: str) -> None:
    """Let no config of a class be read: other models of the same vLLM are none of our business."""

    def from_dict(cls: Any, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(reason)

    config_class.from_dict = classmethod(from_dict)
