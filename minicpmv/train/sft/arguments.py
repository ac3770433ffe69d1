"""Our options as transformers' `TrainingArguments`, and the parts of the model they name."""

import os
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ...adapters.parts import LoraSettings, Parts
from ...data.encode import EncodeSettings
from ...devices import hardware_of, parse_device
from ...errors import ArgumentError
from ...precision import Precision, choose_training_dtype, parse_dtype
from ..flags import DECAYING, TrainingFlags
from ..options import flag_of, given
from ..schedules import warmup_stable_decay

_LLM_TYPES = {"minicpm": "minicpm", "qwen": "qwen2", "llama3": "llama", "llama": "llama"}


def training_arguments(options: TrainingFlags, precision: Precision) -> TrainingArguments:
    """What transformers' Trainer is told. A batch of it is one packed row.

    Raises:
        ValueError: transformers refuses a value.
        ImportError: a package that an option needs is not installed.
    """
    if options.qlora and find_spec("bitsandbytes") is None:
        raise ImportError('--qlora needs bitsandbytes: pip install "minicpmv[int4]"')
    logs = options.logging_dir or str(Path(options.output) / "logs")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", logs)
    on_cpu = device_of(options).type == "cpu"
    has_eval = bool(options.eval_data) and options.eval_strategy != "no"
    arguments = TrainingArguments(
        output_dir=options.output,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=options.accumulation,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        max_grad_norm=options.max_grad_norm,
        warmup_steps=options.warmup,
        lr_scheduler_type="constant" if options.schedule == "wsd" else options.schedule,
        optim=options.optim,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=on_cpu,
        bf16=precision.dtype == torch.bfloat16,
        fp16=precision.dtype == torch.float16,
        logging_steps=options.log_every,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=options.save_every,
        save_total_limit=None,  # callbacks.Complete removes old ones when a newer is whole
        eval_strategy=options.eval_strategy if has_eval else "no",
        eval_steps=options.eval_every if has_eval else None,
        report_to=_reporters(options),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=not on_cpu,
        ddp_backend="gloo" if on_cpu and num_processes() > 1 else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=24 * 3600,  # others wait while the first prepares the data
        deepspeed=options.deepspeed or None,
    )
    # Several cards in one process would split a packed row in the middle.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def check_command(path: str, options: TrainingFlags) -> str:
    """The command that lists the faults of a file as this run finds them."""
    words = ["minicpmv", "data", "check", path, "--model", options.model]
    words += ["--max-length", str(options.max_length)]
    for name in ("format", "image_folder", "max_slice_nums", "num_frames", "fps"):
        if getattr(options, name):
            words += [flag_of(name), str(getattr(options, name))]
    words += [flag_of(name) for name in ("cut_long", "allow_urls") if getattr(options, name)]
    return shlex.join(words)


def _reporters(options: TrainingFlags) -> list[str]:
    """Who is told of the run.

    Raises:
        ArgumentError: one is not known, or a folder is given for TensorBoard and it is not told.
        ImportError: one is not installed.
    """
    names = [name.strip() for name in options.report_to.split(",")]
    known = ("none", "all", *INTEGRATION_TO_CALLBACK)
    for name in names:
        if name not in known:
            raise ArgumentError(f"`report_to` is {name!r}; it is one of {', '.join(known)}.")
        if name not in ("none", "all", *get_available_reporting_integrations()):
            raise ImportError(f"--report-to {name} needs its package: pip install {name}")
    if options.logging_dir and not {"tensorboard", "all"} & set(names):
        raise ArgumentError("`logging_dir` has no effect without `report_to` tensorboard.")
    return names


def set_checkpointing(arguments: TrainingArguments, is_on: bool) -> None:
    """Whether layers are computed again in the backward pass; its name depends on the version."""
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        if hasattr(arguments, name):
            setattr(arguments, name, is_on)
            setattr(arguments, f"{name}_kwargs", {"use_reentrant": False} if is_on else None)


def set_schedule(arguments: TrainingArguments, options: TrainingFlags, num_steps: int) -> None:
    """What transformers' schedules take beside their name.

    Raises:
        ArgumentError: warm-up and decay are longer than the run.
    """
    if options.schedule == "cosine_with_min_lr":
        arguments.lr_scheduler_kwargs = {"min_lr_rate": 0.1}
    if options.schedule not in DECAYING:
        return
    warmup, decay = arguments.get_warmup_steps(num_steps), _decay_steps(options, num_steps)
    if warmup + decay > num_steps:
        raise ArgumentError(
            f"`warmup` takes {warmup} and `decay` {decay} of {num_steps} steps; give smaller ones."
        )
    if options.schedule != "wsd":  # `wsd_rate` says it all
        arguments.lr_scheduler_kwargs = {"num_decay_steps": decay}


def wsd_rate(
    options: TrainingFlags, arguments: TrainingArguments, step: int, num_steps: int
) -> float:
    """The share of the learning rate in a step, from 0, by MiniCPM's schedule."""
    decay = _decay_steps(options, num_steps)
    return warmup_stable_decay(
        step,
        warmup_steps=arguments.get_warmup_steps(num_steps),
        stable_end=num_steps - decay,
        half_life=options.half_life or decay / 5,
    )


def _decay_steps(options: TrainingFlags, num_steps: int) -> int:
    share = options.decay
    return int(share) if share >= 1 else max(1, int(num_steps * share))


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def device_of(options: TrainingFlags) -> torch.device:
    """Where this process computes."""
    device = parse_device(options.device)
    if device.type == "cuda" and device.index is None and num_processes() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return device


def precision_for(options: TrainingFlags, device: torch.device) -> Precision:
    """The dtype of activations, and of weights that are frozen."""
    return choose_training_dtype(hardware_of(device), parse_dtype(options.asked_dtype))


def parts_of(options: TrainingFlags, sees_pictures: bool) -> Parts:
    """What is trained.

    Raises:
        ArgumentError: parts that a text model does not have were asked for.
    """
    named = given(options)
    if not sees_pictures:
        for name in ("tune_resampler", "tune_vision", "lora_resampler", "lora_vision"):
            if name in named and getattr(options, name):
                raise ArgumentError(f"`{name}` has no effect: the model takes no pictures.")
    language: Any = "lora" if options.uses_lora else "full" if options.tune_llm else "frozen"
    if not sees_pictures:
        if language == "frozen":
            raise ArgumentError("`tune_llm=False` leaves nothing to train in a text model.")
        return Parts(language, False, False, options.tune_embeddings)
    resampler: Any = "lora" if options.lora_resampler else options.tune_resampler
    vision: Any = "lora" if options.lora_vision else options.tune_vision
    return Parts(language, resampler, vision, options.tune_embeddings)


def lora_of(options: TrainingFlags) -> LoraSettings:
    """The adapters' settings."""
    return LoraSettings(
        r=options.lora_r,
        alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        targets=options.lora_targets,
        rslora=options.rslora,
        dora=options.dora,
        layers=tuple(int(number) for number in options.lora_layers.split(",") if number.strip()),
    )


def encode_settings(options: TrainingFlags) -> EncodeSettings:
    """How rows become tokens."""
    return EncodeSettings(
        max_length=options.max_length,
        cut=options.cut_long,
        max_slice_nums=options.max_slice_nums or None,
        num_frames=options.num_frames or None,
        fps=options.fps or None,
    )


def default_learning_rate(options: TrainingFlags, num_parameters: int) -> float:
    """Where none was given."""
    kind = "lora" if options.uses_lora else "small" if num_parameters < 100_000_000 else "full"
    return options.LEARNING_RATES[kind]


def check_llm_type(options: TrainingFlags, text_type: str) -> None:
    """
    Raises:
        ArgumentError: `llm_type` names another language model than the checkpoint's.
    """
    if options.llm_type and _LLM_TYPES[options.llm_type] != text_type:
        raise ArgumentError(
            f"`llm_type` is {options.llm_type!r}, and the language model of {options.model!r} is "
            f"{text_type!r}. Leave the flag out; the model's files say it."
        )


__all__ = [
    "check_llm_type",
    "default_learning_rate",
    "device_of",
    "encode_settings",
    "lora_of",
    "num_processes",
    "parts_of",
    "precision_for",
    "set_checkpointing",
    "set_schedule",
    "training_arguments",
    "wsd_rate",
]
