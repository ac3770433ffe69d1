"""`load`: a name or a folder to a `Chat`, with one-line errors about what is missing or damaged."""

import copy
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import CONFIG_MAPPING
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging as transformers_logging

from . import (
    auto,  # noqa: F401 - registers the classes
    kernels,
)
from .adapters.base import adapter_base, naming_adapter
from .adapters.folder import AdapterFiles, is_adapter
from .adapters.load import attach, check_can_have_adapters
from .adapters.settings import check_settings, use_settings
from .chat import Chat
from .checkpoint.consistency import set_token_ids
from .checkpoint.hub import Checkpoint
from .checkpoint.tensors import skeleton
from .checkpoint.weights import WeightFiles
from .devices import (
    check_device_map,
    hardware_of,
    main_device,
    parse_device,
    uses_disk,
)
from .engine.limits import EngineLimits
from .engine.widen import widen
from .errors import ArgumentError, first_line, short
from .gguf.reading.model import as_checkpoint, is_gguf, language_of, of_fields
from .media.policy import MediaPolicy
from .model.config_checks import check_config
from .model.devices import DeviceFromEmbeddingsMixin
from .model.loading import StrictLoadingMixin
from .model.minicpm import MiniCPMForCausalLM
from .model.modeling import MiniCPMVForConditionalGeneration, OmniLMMForConditionalGeneration
from .precision import (
    Precision,
    choose_dtype,
    float32_bytes,
    parse_dtype,
    stored_dtype,
    working_bytes,
)
from .processing.file_checks import check_processor_files
from .processing.processor import MiniCPMVProcessor
from .processing.templates import released_chat_template
from .processing.text import TextProcessor
from .processing.tokenizer import MiniCPMVTokenizerFast
from .quantization import UNPACKED, format_config, weight_bytes
from .quantization.block_layers import BlockLinear
from .quantization.packed_linear import PackedLinear
from .quiet import progress_bar
from .releases import VISION_TYPES, model_type_of, release_of, text_release_of


class LlamaForCausalLM(
    StrictLoadingMixin, DeviceFromEmbeddingsMixin, transformers.LlamaForCausalLM
):
    """A text model whose scalings are folded into its weights."""


class MixtralForCausalLM(
    StrictLoadingMixin, DeviceFromEmbeddingsMixin, transformers.MixtralForCausalLM
):
    """The same for the mixture of experts."""


class Qwen2ForCausalLM(
    StrictLoadingMixin, DeviceFromEmbeddingsMixin, transformers.Qwen2ForCausalLM
):
    """The language model of 2.6 without its vision side."""


class MistralForCausalLM(
    StrictLoadingMixin, DeviceFromEmbeddingsMixin, transformers.MistralForCausalLM
):
    """The same of OmniLMM-12B."""


# By `model_type` of config.json.
MODEL_CLASSES: dict[str, Any] = {
    "minicpmv": MiniCPMVForConditionalGeneration,
    "omnilmm": OmniLMMForConditionalGeneration,
    "minicpm": MiniCPMForCausalLM,
    "llama": LlamaForCausalLM,
    "mixtral": MixtralForCausalLM,
}
# Language models of releases that support images, which GGUF files can hold alone.
LANGUAGE_CLASSES = MODEL_CLASSES | {"qwen2": Qwen2ForCausalLM, "mistral": MistralForCausalLM}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load(
    name_or_path: str | Path = "nano",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    adapter: str | Path | None = None,
    mmproj: str | Path | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    max_memory: dict[Any, Any] | None = None,
    offload_folder: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    quantize: Literal["int4", "int8", "nf4", "llm.int8"] | None = None,
    compat: Literal["released"] | None = None,
    media_policy: MediaPolicy | None = None,
    limits: EngineLimits | None = None,
    progress: bool | None = None,
) -> Chat:
    """Load a model and its processor.

    Args:
        name_or_path: a folder, a name on the Hugging Face hub, a short one ("2.6", "omnilmm-12b",
            "2b", "MiniCPM-2B-dpo-bf16"), or "nano", the small model in this package. A folder with
            an adapter alone means the model that it was trained on, with it. Or a GGUF file.
        device: "auto" takes CUDA, then MPS, then CPU; or any torch device.
        dtype: "auto" keeps the checkpoint's own where the device has instructions for it, see
            docs/devices.md; or "float32", "bfloat16", "float16". `Chat.precision` says what was
            chosen, and why.
        adapter: a folder or a repository with a fine-tuned adapter for the model, which stays apart
            from its weights; see docs/finetuning.md. `minicpmv merge` puts it into them.
        mmproj: of a GGUF file, the one with its vision side. Without it the model reads text only.
        device_map, max_memory: spread the weights over devices, "cpu" and "disk" among them, as in
            transformers; instead of `device`. See docs/devices.md.
        revision: branch, tag or commit on the hub.
        token: for a gated or private repository; True takes the one of `hf auth login`.
        cache_dir: where files of the hub are cached, instead of the usual folder.
        local_files_only: use the cached copy only, without the network.
        force_download: download every file again.
        offload_folder: where weights for "disk" are written that cannot stay in the checkpoint's
            own files: those of `pytorch_model.bin`.
        quantize: keep weights in 4 or 8 bits, from full ones: "int4", "int8"; "nf4" and "llm.int8"
            are those of bitsandbytes, which the first two mean on a GPU. Not needed for files that
            are quantised already. See docs/quantization.md.
        compat: "released" reproduces the numbers of the released code where this package
            deliberately differs; see docs/differences.md.
        media_policy: where pictures and videos may come from; by default any file and address.
            See docs/media.md.
        limits: memory of the engine, and requests at a time; see docs/engine.md.
        progress: show a bar on stderr while weights load; None: when stderr is a terminal.

    Raises:
        ValueError: the model is not known, or its files do not fit together.
        OSError: its files cannot be read.
        ImportError: the format of bitsandbytes, and it is not installed.
    """
    if device_map is not None and device != "auto":
        raise ArgumentError(
            f"`device={str(device)!r}` and `device_map={device_map!r}`: pass one of them."
        )
    for name, given in (("max_memory", max_memory), ("offload_folder", offload_folder)):
        if device_map is None and given is not None:
            raise ValueError(f"{name} has no effect without device_map; pass device_map='auto'.")
    target = parse_device(device)
    if device_map is not None:
        check_device_map(device_map)
    parse_dtype(dtype)
    limits = EngineLimits.checked(limits)
    _check_attention(attn_implementation)
    name = str(name_or_path)
    of_adapter = None
    if adapter is None and is_adapter(name_or_path):
        adapter = of_adapter = name_or_path
        name_or_path, revision = adapter_base(adapter, revision)
    elif adapter is not None and is_adapter(name_or_path):
        raise ArgumentError(f"`adapter`: {name!r} is an adapter itself; give the model before it.")
    with (
        find_checkpoint(
            name_or_path,
            mmproj,
            widened=adapter is not None,
            of_adapter=of_adapter,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        ) as checkpoint,
        _library_output(sys.stderr.isatty() if progress is None else progress),
        readable_errors(checkpoint),
    ):
        fields = read_config(checkpoint)
        processor = load_processor(checkpoint, fields, compat=compat)
        options: dict[str, Any] = dict(checkpoint.keywords)
        if device_map is not None:
            options |= {"device_map": device_map, "max_memory": max_memory}
            options["offload_folder"] = offload_folder
        else:
            options["device_map"] = target  # straight to it, without a copy on the CPU
        place = target if device_map is None else main_device(device_map)
        if quantize is not None:
            options["quantization_config"] = format_config(quantize, place)
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        is_spread = max_memory is not None or uses_disk(device_map)
        precision = precision_of(
            checkpoint, fields, place, dtype, quantize=quantize, is_spread=is_spread
        )
        try:
            model = model_class(fields).from_pretrained(
                checkpoint.location, dtype=precision.dtype, **options
            )
        except ImportError as error:
            if "FlashAttention" not in str(error):
                raise
            reason = first_line(error).rpartition("following error: ")[2]
            raise ArgumentError(
                f"`attn_implementation` {attn_implementation!r} cannot be used here: {reason} "
                "sdpa and eager need no other package."
            ) from error
    set_token_ids(model.config, processor)
    if adapter is not None:
        model = _with_adapter(model, processor, adapter)
    if precision.widens:
        widen(model)
    if model.device.type == "cpu" and _gains_by_kernels(model):
        kernels.library()  # compiled now, where it is not, and not in the middle of an answer
    return Chat(
        model.eval(),
        processor,
        name=name,
        precision=precision,
        media_policy=media_policy,
        limits=limits,
    )


@contextmanager
def find_checkpoint(
    name_or_path: str | Path,
    mmproj: str | Path | None = None,
    *,
    widened: bool = False,
    of_adapter: str | Path | None = None,
    **keywords: Any,
) -> Iterator[Checkpoint]:
    """What a name means, a GGUF file too, whose small files are there as long as the context.

    Args:
        widened: whether no weight of a GGUF file is to stay packed, as adapters need it.
        of_adapter: the adapter that names this model; an error tells it.
        keywords: of `Checkpoint.find`.

    Raises: as `load`.
    """
    if is_gguf(name_or_path):
        for keyword, value in keywords.items():
            if value and keyword not in ("token", "cache_dir", "local_files_only"):
                raise ArgumentError(f"`{keyword}={value!r}` has no effect on a GGUF file.")
        with as_checkpoint(name_or_path, mmproj, widened=widened) as checkpoint:
            yield checkpoint
        return
    if mmproj is not None:
        raise ArgumentError(
            f"`mmproj` is the vision side of a GGUF file, and {str(name_or_path)!r} is none."
        )
    with naming_adapter(of_adapter):
        checkpoint = Checkpoint.find(name_or_path, **keywords)
    yield checkpoint.fetched_again() if keywords.get("force_download") else checkpoint


def model_class(fields: Mapping[str, Any]) -> Any:
    """The class of a model whose `config.json` has these fields."""
    classes = MODEL_CLASSES if language_of(fields) is None else LANGUAGE_CLASSES
    return classes[model_type_of(fields)]


def _with_adapter(model: Any, processor: Any, adapter: str | Path) -> Any:
    """The model with an adapter, and the processor as in its training.

    Raises:
        ValueError: they do not fit each other.
    """
    check_can_have_adapters(model)
    files = AdapterFiles.find(adapter)
    check_settings(files.settings, model, processor, files.name)
    tuned = attach(model, adapter)
    use_settings(files.settings, model, processor)
    return tuned


def _gains_by_kernels(model: Any) -> bool:
    """Whether compiled kernels are worth waiting for a compiler, once: for packed weights, and for
    models that take longer to answer. The bundled one uses them where they are there."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kinds = PackedLinear | BlockLinear
    is_packed = any(isinstance(module, kinds) for module in model.modules())
    return is_packed or parameters >= 100_000_000


def _check_attention(name: Any) -> None:
    """Refuse an unknown name of attention; one with a / is a kernel on the hub.

    Raises:
        ArgumentError: transformers knows no such implementation.
    """
    known = ["eager", *(key for key in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in key)]
    if isinstance(name, str) and not set("/|") & set(name) and name not in known:
        raise ArgumentError(
            f"`attn_implementation` is {short(name)}, which is not known. Known: "
            f"{', '.join(sorted(known))}."
        )


def read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of a model's `config.json`, after a look at its other small files.

    Raises:
        OSError: there is no such file, another that must stand beside it is missing, or a file is a
            pointer of git-lfs.
        ValueError: a small file is damaged, or no class here reads such a model.
    """
    path = checkpoint.location
    _check_file(checkpoint, "config.json")
    checkpoint.check()
    fields = checkpoint.read_json("config.json")
    model_type = model_type_of(fields)
    fields.setdefault("model_type", model_type)
    if model_type not in (MODEL_CLASSES if language_of(fields) is None else LANGUAGE_CLASSES):
        raise ValueError(
            f"config.json of {path!r}, by its model_type or architectures, is of a {model_type!r} "
            f"model. This package reads {', '.join(MODEL_CLASSES)}."
        )
    check_config(fields, f"config.json of {path!r}")
    # Before the tokenizer is read: AutoTokenizer passes over an invalid config.
    try:
        CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(fields))
    except StrictDataclassFieldValidationError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"config.json of {path!r}: {reason}.") from error
    except ZeroDivisionError as error:
        raise ValueError(f"config.json of {path!r} has a 0 that numbers are divided by.") from error
    except ValueError as error:
        if "config.json" in str(error):
            raise
        raise ValueError(f"config.json of {path!r}: {error}") from error
    if model_type in VISION_TYPES and release_of(fields).has_preprocessor_config:
        _check_file(checkpoint, "preprocessor_config.json")
    return fields


def model_config(fields: Mapping[str, Any]) -> Any:
    """The config of a model whose `config.json` has these fields."""
    return CONFIG_MAPPING[model_type_of(fields)].from_dict(copy.deepcopy(dict(fields)))


def load_processor(
    checkpoint: Checkpoint,
    fields: Mapping[str, Any],
    compat: Literal["released"] | None = None,
) -> MiniCPMVProcessor | TextProcessor:
    """The processor of a model whose `config.json` has these fields.

    Raises:
        OSError: there is no tokenizer.
        ValueError: a model in the format of Llama that was not made from MiniCPM.
    """
    _check_file(checkpoint, *TOKENIZER_FILES)
    path, hub = checkpoint.location, checkpoint.keywords
    check_processor_files(checkpoint)
    if model_type_of(fields) in VISION_TYPES:
        return MiniCPMVProcessor.from_pretrained(path, compat=compat, **hub)
    of_pictures = language_of(fields)
    if of_pictures is not None:
        tokenizer = MiniCPMVTokenizerFast.from_pretrained(path, **hub)
        if not tokenizer.chat_template:
            tokenizer.chat_template = released_chat_template(of_pictures)
        return TextProcessor(tokenizer, of_pictures, compat)
    release = text_release_of(fields)
    processor = TextProcessor.from_pretrained(path, release, compat, **hub)
    template = str(processor.tokenizer.chat_template)
    if model_type_of(fields) != "minicpm" and release.user_tag not in template:
        raise ValueError(
            f"{path!r} is a {model_type_of(fields)} model, and its chat template does not write "
            f"{release.user_tag!r}, so it was not made from {release.name}. Load it with "
            "transformers itself."
        )
    return processor


def _check_file(checkpoint: Checkpoint, *names: str) -> None:
    """A folder must have one of these files before anything is read from it."""
    folder = checkpoint.folder if checkpoint.is_folder else None
    if folder is not None and not any((folder / name).is_file() for name in names):
        checkpoint.check_is_no_adapter()
        files = sorted(path.name for path in folder.glob("*.gguf"))
        if files:
            raise OSError(
                f"{str(folder)!r} is a folder of GGUF files ({', '.join(files)}). Name the file "
                "of the language model, and that of the vision side as `mmproj`."
            )
        raise OSError(
            f"{str(folder)!r} has no {' or '.join(names)}, so it is not a complete MiniCPM-V "
            "or MiniCPM checkpoint. Download it again, or check the path."
        )


def precision_of(
    checkpoint: Checkpoint,
    fields: Mapping[str, Any],
    device: torch.device,
    dtype: Any = "auto",
    *,
    quantize: str | None = None,
    is_spread: bool = False,
) -> Precision:
    """The dtype for a checkpoint; its memory is counted only where the choice depends on it.

    Args:
        fields: of its `config.json`.
        dtype, quantize: as in `load`.
        is_spread: the user has limited its memory, so it does not grow.
    """
    asked, stored = parse_dtype(dtype), stored_dtype(fields)
    hardware = hardware_of(device)
    headers: dict[str, Any] = {}
    if stored is None:
        headers = _headers(checkpoint)
        stored = next((kind for _, kind in headers.values() if kind), None)
    choice = choose_dtype(stored, hardware, asked=asked, is_spread=is_spread)
    if asked or is_spread or hardware.kind != "cpu" or not choice.departs:
        return choice
    headers = headers or _headers(checkpoint)
    config = model_config(fields)
    gguf = of_fields(fields)
    written = fields.get("quantization_config") or {}
    method = written.get("quant_method")
    if gguf is not None and not written.get("widened") and kernels.library() is not None:
        needed = gguf.packed_bytes(width=4)
    elif quantize is not None or not headers or method in UNPACKED:
        empty = skeleton(model_class(fields), config)
        needed = weight_bytes(empty, quantize, width=4)
    else:
        needed = float32_bytes(headers)
    return choose_dtype(stored, hardware, needed_bytes=needed + working_bytes(config))


def _headers(checkpoint: Checkpoint) -> dict[str, Any]:
    """Shape and dtype of every tensor in the weight files on this disk."""
    with WeightFiles(checkpoint.kept_weight_files()) as weights:
        return {name: (weights.shapes[name], weights.dtypes[name]) for name in weights.shapes}


@contextmanager
def _library_output(progress: bool) -> Iterator[None]:
    """transformers' progress bar when wanted; its load report never, since `from_pretrained` raises
    it. Nor what accelerate says about weights that were asked to wait elsewhere."""
    accelerate_logger = logging.getLogger("accelerate")
    accelerate_level = accelerate_logger.level
    accelerate_logger.setLevel(logging.ERROR)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with progress_bar(progress), warnings.catch_warnings():
            # A table of the vision tower's own is placed beside the tower's blocks.
            warnings.filterwarnings("ignore", message="The following device_map keys do not match")
            yield
    finally:
        accelerate_logger.setLevel(accelerate_level)
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def readable_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """One line about a folder or a name that cannot be loaded, instead of a library's
    paragraphs."""
    try:
        with checkpoint.naming_damage():
            yield
    except OSError as error:
        raise OSError(
            f"Cannot load the model {checkpoint.location!r}: {first_line(error)}"
        ) from error
