"""PEFT with the models of this package: released names in adapters, and classes with `chat()`.

Adapters trained with the released code name its parts (`llm.model.layers.0...`, `vpm`), in
`target_modules`, `modules_to_save` and in their tensors. PEFT translates names of LoRA tensors by
itself; the rest is done here, for our models alone. It happens when PEFT is imported, before or
after this package, and never imports it.
"""

import functools
import importlib.abc
import importlib.util
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

# Our model types, and the model type whose default targets they get: their language model's.
_LIKE = {"minicpm": "llama", "minicpmv": "qwen2", "omnilmm": "mistral"}
_PREFIX = "base_model.model."
_RELEASED_CLASSES = {"MiniCPMV", "MiniCPMForCausalLM", "OmniLMMForCausalLM"}


def install() -> None:
    """Adapt PEFT, now or as soon as somebody imports it."""
    if "peft" in sys.modules:
        adapt()
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(importlib.abc.MetaPathFinder):
    """Waits for the first `import peft`; a question whether it is installed is none."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "peft":
            return None
        place = sys.meta_path.index(self)
        del sys.meta_path[place]
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(place, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _AdaptingLoader(spec.loader, self)
        return spec


class _AdaptingLoader(importlib.abc.Loader):
    def __init__(self, loader: Any, finder: _WhenImported):
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        adapt()


def adapt() -> None:
    """Patch the imported PEFT; once, however often it is called."""
    import peft.auto
    from peft.utils import constants, save_and_load, transformers_weight_conversion

    if getattr(peft.auto, "_minicpmv", False):
        return
    setattr(peft.auto, "_minicpmv", True)  # noqa: B010 - a mark on a module of theirs
    for name, table in vars(constants).items():
        if name.endswith("_TARGET_MODULES_MAPPING") and isinstance(table, dict):
            for model_type, like in _LIKE.items():
                targets = table.get(like, table.get("llama"))
                if targets is not None:
                    table.setdefault(model_type, targets)
    lora_targets = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    convert_config = transformers_weight_conversion.convert_peft_config_for_transformers

    @functools.wraps(convert_config)
    def convert_peft_config(peft_config: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if is_ours(model):
            default = lora_targets[model.config.model_type]
            translate_config(peft_config, model, default)
        return convert_config(peft_config, model, *args, **kwargs)

    transformers_weight_conversion.convert_peft_config_for_transformers = convert_peft_config

    set_state = save_and_load.set_peft_model_state_dict

    @functools.wraps(set_state)
    def set_peft_model_state_dict(
        model: Any, peft_model_state_dict: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if is_ours(base):
            peft_model_state_dict = {
                our_tensor_name(name, base.config.model_type): tensor
                for name, tensor in peft_model_state_dict.items()
            }
        return set_state(model, peft_model_state_dict, *args, **kwargs)

    for name, module in list(sys.modules.items()):  # PEFT's modules have it by name
        if name.split(".")[0] == "peft" and vars(module).get(set_state.__name__) is set_state:
            setattr(module, set_state.__name__, set_peft_model_state_dict)
    _adapt_auto_classes(peft.auto)


def imported() -> ModuleType:
    """PEFT. It imports bitsandbytes, which says that a kernel of the hub is not there.

    Raises:
        ImportError: PEFT is not installed.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        peft = importlib.import_module("peft")
        if torch.distributed.is_available():
            # PEFT looks for `torch.distributed.tensor.DTensor` and leaves the import to others.
            importlib.import_module("torch.distributed.tensor")
        return peft
    except ImportError as error:
        raise ImportError('Adapters need PEFT. Run: pip install "minicpmv[train]"') from error
    finally:
        logger.setLevel(level)


@contextmanager
def without_its_warnings() -> Iterator[None]:
    """Around calls of PEFT, which asks transformers for a field under its former name, and doubts
    tied weights that its own setting ties."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def is_ours(model: Any) -> bool:
    """Whether a model is of this package, by its config; converted Llamas need nothing."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return model_type in _LIKE and hasattr(model, "released_name")


def translate_config(peft_config: Any, model: Any, default_targets: Iterable[str]) -> None:
    """Let an adapter's settings name modules as this package does.

    Names that some module has already stay. Without `target_modules`, a LoRA adapter of a model
    with a vision tower gets those of its language model alone.
    """
    names = [name for name, _ in model.named_modules() if name]
    released = {name: model.released_name(name) for name in names}
    targets = getattr(peft_config, "target_modules", None)
    has_tower = model.config.model_type != "minicpm"
    is_lora = str(getattr(peft_config.peft_type, "value", peft_config.peft_type)) == "LORA"
    if targets is None and is_lora and has_tower:
        peft_config.target_modules = rf".*language_model\..*\.({'|'.join(sorted(default_targets))})"
    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        given = getattr(peft_config, field, None)
        if isinstance(given, str):
            if not any(re.fullmatch(given, name) for name in names):
                found = {name for name in names if re.fullmatch(given, released[name])}
                if found:
                    setattr(peft_config, field, found)
        elif given:
            translated = [new for entry in given for new in _entries(entry, names, released)]
            setattr(peft_config, field, type(given)(translated))


def _entries(entry: str, names: list[str], released: dict[str, str]) -> list[str]:
    """The entry, or our names of the modules that it means in the released code."""
    if any(_ends_in(name, entry) for name in names):
        return [entry]
    return [name for name in names if _ends_in(released[name], entry)] or [entry]


def _ends_in(name: str, entry: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def modules_meant(entry: str, model: Any) -> list[str]:
    """Our names of the modules that an entry of `modules_to_save` means, as PEFT finds them."""
    names = [name for name, _ in model.named_modules() if name]
    entries = _entries(entry, names, {name: model.released_name(name) for name in names})
    return [name for name in names if name.endswith(tuple(entries))]


def our_tensor_name(name: str, model_type: str) -> str:
    """Our name of an adapter's tensor that may be named as in the released code."""
    from ..model.checkpoint_keys import RENAMINGS

    if not name.startswith(_PREFIX):
        return name
    inner = name.removeprefix(_PREFIX)
    for released, ours in RENAMINGS.get(model_type, ()):
        if inner.startswith(f"{released}."):
            return f"{_PREFIX}{ours}{inner.removeprefix(released)}"
    return name


def _adapt_auto_classes(auto: Any) -> None:
    """`AutoPeftModel` and its sibling for causal language models give the class with `chat()`."""
    default_allowlist = auto.get_default_import_allowlist
    check_allowlist = auto.check_import_allowlist

    @functools.wraps(default_allowlist)
    def get_default_import_allowlist() -> list[str]:
        return [*default_allowlist(), "minicpmv"]

    @functools.wraps(check_allowlist)
    def check_import_allowlist(allowlist: list[str], parent_name: str) -> bool:
        # Who allows one module of this package allows the others: classes have moved among them.
        if any(allowed.split(".")[0] == "minicpmv" for allowed in allowlist):
            allowlist = [*allowlist, "minicpmv"]
        return check_allowlist(allowlist, parent_name)

    auto.get_default_import_allowlist = get_default_import_allowlist
    auto.check_import_allowlist = check_import_allowlist
    for_causal_lm = auto.AutoPeftModelForCausalLM
    for_causal_lm._target_class = _with_chat(for_causal_lm._target_class)
    base = auto._BaseAutoPeftModel
    from_pretrained = base.from_pretrained.__func__

    @functools.wraps(from_pretrained)
    def load(cls: Any, path: Any, *args: Any, revision: str | None = None, **kwargs: Any) -> Any:
        if not args:
            config = auto.PeftConfig.from_pretrained(path, revision=revision, **kwargs)
            mapping = config.auto_mapping or {}
            # Written by the released code, whose module there is none of here.
            is_remote = str(mapping.get("parent_library")).startswith("transformers_modules.")
            is_remote = is_remote and config.task_type is None
            if is_remote and mapping.get("base_model_class") in _RELEASED_CLASSES:
                return _of_remote_code(cls, config, path, revision, kwargs)
        return from_pretrained(cls, path, *args, revision=revision, **kwargs)

    base.from_pretrained = classmethod(load)


def _of_remote_code(
    cls: Any, config: Any, path: Any, revision: str | None, kwargs: dict[str, Any]
) -> Any:
    from ..released_auto import AutoModel

    own = {"adapter_name", "is_trainable", "config", "import_allowlist"}
    of_model = {name: value for name, value in kwargs.items() if name not in own}
    model = AutoModel.from_pretrained(
        config.base_model_name_or_path, revision=config.revision, **of_model
    )
    kwargs = {name: value for name, value in kwargs.items() if name != "import_allowlist"}
    return cls._target_peft_class.from_pretrained(model, path, revision=revision, **kwargs)


def _with_chat(auto_class: Any) -> Any:
    """`auto_class`, with our class for checkpoints of ours."""

    class AutoModelWithChat:
        @staticmethod
        def from_pretrained(path: Any, *args: Any, **kwargs: Any) -> Any:
            from transformers import PreTrainedConfig

            from ..checkpoint.hub import hub_keywords
            from ..released_auto import AutoModelForCausalLM

            fields, _ = PreTrainedConfig.get_config_dict(path, **hub_keywords(kwargs))
            is_known = fields.get("model_type") in _LIKE
            chosen: Any = AutoModelForCausalLM if is_known else auto_class
            return chosen.from_pretrained(path, *args, **kwargs)

    return AutoModelWithChat


__all__ = ["adapt", "imported", "install", "without_its_warnings"]
