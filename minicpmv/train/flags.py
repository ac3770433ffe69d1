"""What `minicpmv train sft` and `minicpmv train dpo` have in common. Imports no torch.

Names of the released scripts are accepted with their spelling and values: `--tune_vision true`,
`--use_lora true`, `--model_max_length 2048`.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from minicpmv.errors import ArgumentError
from minicpmv.train.options import check_options, given, option
from minicpmv.train.spread import check_spread

DTYPES = ("auto", "bfloat16", "bf16", "float16", "fp16", "float32", "fp32")
SCHEDULES = (
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_min_lr",
    "inverse_sqrt",
    "polynomial",
    "warmup_stable_decay",
    "wsd",
)
DECAYING = ("warmup_stable_decay", "wsd")  # what `decay` is of
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adamw_bnb_8bit")

# Flags of the released scripts that say what is so here anyway, with the values that do.
RELEASED_FLAGS: Mapping[str, tuple[str, ...]] = {
    "remove_unused_columns": ("false",),
    "label_names": ("labels",),
    "prediction_loss_only": ("true", "false"),
    "do_train": ("true",),
    "do_eval": ("true", "false"),
    "logging_strategy": ("steps",),
    "save_strategy": ("steps",),
    "per_device_eval_batch_size": ("1",),
    "bf16_full_eval": ("true", "false"),
    "fp16_full_eval": ("true", "false"),
    "tune_audio": ("false",),
}
# Options without effect unless one of others is on.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "lora_r": ("lora", "qlora"),
    "lora_alpha": ("lora", "qlora"),
    "lora_dropout": ("lora", "qlora"),
    "lora_targets": ("lora", "qlora"),
    "lora_bias": ("lora", "qlora"),
    "lora_layers": ("lora", "qlora"),
    "lora_vision": ("lora", "qlora"),
    "lora_resampler": ("lora", "qlora"),
    "rslora": ("lora", "qlora"),
    "dora": ("lora", "qlora"),
    "adapter": ("lora", "qlora"),
    "eval_every": ("eval_data",),
    "eval_strategy": ("eval_data",),
    "feature_cache_gb": ("feature_cache",),
    "samples_every": ("samples",),
    "sample_tokens": ("samples",),
}
_LARGEST_SEED = 2**32 - 1  # of numpy's generators


def add_released_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the released scripts that change nothing here; another value is refused."""
    for name, values in RELEASED_FLAGS.items():
        parser.add_argument(
            f"--{name}",
            nargs="?",
            const=values[0],
            default=argparse.SUPPRESS,
            dest=f"released_{name}",
            type=str.lower,
            choices=values,
            help=argparse.SUPPRESS,
        )


def _check_file(text: str) -> str:
    return "there is no such file" if text and not Path(text).is_file() else ""


def _check_data(text: str) -> str:
    path = text.rpartition("::")[0] or text
    return "" if not text or Path(path).exists() else "there is no such file"


def _check_output(text: str) -> str:
    return "that is a file; give a folder" if Path(text).is_file() else ""


def _check_layers(text: str) -> str:
    parts = text.split(",") if text else []
    return "" if all(part.strip().isdecimal() for part in parts) else "give numbers such as 0,1,2"


@dataclasses.dataclass
class TrainingFlags:
    """Options of every fine-tuning; see the help texts."""

    LEARNING_RATES: ClassVar[Mapping[str, float]] = {"lora": 1e-4, "full": 1e-5, "small": 5e-4}

    model: str = option("nano", "folder, name on the hub, or nano", aliases=("model_name_or_path",))
    data: str = option(
        "", "file of rows, see docs/data.md", check=_check_data, aliases=("data_path",)
    )
    eval_data: str = option(
        "", "file of rows to measure the loss on", check=_check_data, aliases=("eval_data_path",)
    )
    output: str = option(
        "",
        "folder of the run; one that was interrupted goes on from there",
        check=_check_output,
        aliases=("output_dir",),
    )
    format: str = option("", "format of the data, instead of the one that is recognised")
    image_folder: str = option("", "folder of the pictures, instead of the data file's own")
    allow_urls: bool = option(False, "open pictures at addresses too")
    skip_bad_rows: bool = option(False, "leave out rows with faults, counted in report.json")
    llm_type: str = option(
        "",
        "language model as the released scripts name it; checked against the model",
        choices=("", "minicpm", "llama", "llama3", "qwen"),
    )

    max_length: int = option(
        2048,
        "the most tokens of a row, pictures among them",
        least=8,
        aliases=("model_max_length",),
    )
    cut_long: bool = option(False, "cut longer rows on the right; otherwise they are faults")
    max_slice_nums: int = option(0, "the most slices of a picture; 0: as the model says", least=0)
    num_frames: int = option(0, "frames of a video; 0: as the model says", least=0)
    fps: float = option(0.0, "frames per second of a video; 0: as the model says", least=0)

    lora: bool = option(
        False, "train low-rank adapters of the language model", aliases=("use_lora",)
    )
    qlora: bool = option(
        False, "the same over weights of 4 bits, by bitsandbytes", aliases=("q_lora",)
    )
    tune_llm: bool = option(
        True, "train the language model whole", shown="on without --lora; off: --no-tune-llm"
    )
    tune_resampler: bool = option(True, "train the resampler whole")
    tune_vision: bool = option(False, "train the vision tower whole")
    tune_embeddings: bool = option(
        False, "with adapters, train embeddings and head whole beside them"
    )
    lora_vision: bool = option(False, "adapters in the vision tower")
    lora_resampler: bool = option(False, "adapters in the resampler, instead of training it whole")
    lora_r: int = option(64, "rank of the adapters", least=1)
    lora_alpha: float = option(64.0, "their factor is alpha / rank", above=0)
    lora_dropout: float = option(0.05, "share of their inputs that is left out", least=0)
    lora_targets: str = option(
        "default",
        "layers with adapters: default (attention), all-linear, names a,b or a regular expression",
        aliases=("lora_target_modules",),
    )
    lora_layers: str = option(
        "",
        "numbers of the layers with adapters, such as 0,1,2; all when left out",
        check=_check_layers,
        aliases=("lora_layers_to_transform",),
    )
    lora_bias: str = option("none", "none: biases are not trained", choices=("none",))
    rslora: bool = option(False, "factor alpha / sqrt(rank)")
    dora: bool = option(False, "train magnitudes of the weights apart")
    adapter: str = option("", "folder of an adapter to start from", aliases=("lora_weight_path",))

    epochs: float = option(
        3.0, "times that every row is seen", above=0, aliases=("num_train_epochs",)
    )
    max_steps: int = option(-1, "steps instead of epochs; -1: by epochs", least=-1)
    batch: int = option(
        1,
        "multiple of --max-length tokens per step and process",
        least=1,
        aliases=("per_device_train_batch_size",),
    )
    accumulation: int = option(
        1,
        "such batches per step of the optimizer",
        least=1,
        aliases=("gradient_accumulation_steps",),
    )
    learning_rate: float = option(
        0.0,
        "the highest learning rate",
        least=0,
        shown="1e-4 with adapters, 1e-5 without, 5e-4 without below 100 million parameters",
    )
    weight_decay: float = option(0.0, "of matrices", least=0)
    adam_beta1: float = option(0.9, "of AdamW", least=0)
    adam_beta2: float = option(0.95, "of AdamW", least=0)
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0: never", least=0)
    warmup: float = option(
        0.03,
        "share of the steps until the full learning rate; from 1 on, their number",
        least=0,
        aliases=("warmup_ratio", "warmup_steps"),
    )
    schedule: str = option(
        "cosine",
        f"of the learning rate: {', '.join(SCHEDULES)}",
        choices=SCHEDULES,
        aliases=("lr_scheduler_type",),
    )
    decay: float = option(
        0.1,
        "share of the steps, the last ones, in which the rate of wsd and warmup_stable_decay "
        "falls; from 1 on, their number",
        above=0,
    )
    half_life: float = option(
        0.0,
        "steps in which the rate of wsd halves there",
        least=0,
        shown="a fifth of those steps, so that 1/32 of the rate is left",
    )
    optim: str = option("adamw_torch", f"optimizer: {', '.join(OPTIMIZERS)}", choices=OPTIMIZERS)
    seed: int = option(0, "of the order of rows, new weights and dropout", least=0)

    device: str = option("auto", "cpu, cuda, mps, or auto: the fastest that is there")
    dtype: str = option(
        "auto", "bf16, fp16, fp32, or auto: bf16 where the device has instructions", choices=DTYPES
    )
    bf16: bool = option(False, "the same as --dtype bf16")
    fp16: bool = option(False, "the same as --dtype fp16")
    gradient_checkpointing: bool = option(
        False,
        "compute layers again in the backward pass, for less memory",
        shown="from 1 billion parameters on",
    )
    packing: bool = option(True, "several rows in one, without attention between them")
    feature_cache: bool = option(True, "keep the features of a frozen vision tower on disk")
    feature_cache_gb: float = option(50.0, "the most that they may take", above=0)
    deepspeed: str = option("", "configuration file of DeepSpeed", check=_check_file)
    threads: int = option(0, "threads of the processor; 0: one per core", least=0)
    workers: int = option(0, "processes that prepare batches", least=0)

    log_every: int = option(5, "steps between progress lines", least=1, aliases=("logging_steps",))
    save_every: int = option(100, "steps between checkpoints", least=1, aliases=("save_steps",))
    keep: int = option(2, "checkpoints that are kept", least=1, aliases=("save_total_limit",))
    eval_every: int = option(
        100, "steps between looks at --eval-data", least=1, aliases=("eval_steps",)
    )
    eval_strategy: str = option(
        "steps",
        "steps, epoch or no",
        choices=("no", "steps", "epoch"),
        aliases=("evaluation_strategy",),
    )
    samples: int = option(4, "rows whose questions are asked in samples.md", least=0)
    samples_every: int = option(0, "steps between samples; 0: with every checkpoint", least=0)
    sample_tokens: int = option(96, "the most tokens of such an answer", least=1)
    report_to: str = option("none", "tensorboard, wandb and others of transformers, by commas")
    logging_dir: str = option("", "folder of TensorBoard's files; in --output when left out")
    estimate: bool = option(False, "say how much memory it will take, and stop")
    dry_run: bool = option(False, "check the data, say what would be trained, and stop")

    @property
    def uses_lora(self) -> bool:
        return self.lora or self.qlora

    @property
    def tunes_vision(self) -> bool:
        return self.tune_vision or self.lora_vision

    def check(self) -> None:
        """Raise ArgumentError for a value out of its range, or one without effect."""
        check_options(self, needed=("data", "output"))
        named = given(self)
        for name, causes in _NEEDS.items():
            if name in named and not any(getattr(self, cause) for cause in causes):
                default = next(f.default for f in dataclasses.fields(self) if f.name == name)
                # Scripts write defaults too.
                if getattr(self, name) != default:
                    raise ArgumentError(f"`{name}` has no effect without `{causes[0]}`.")
        if self.uses_lora and self.tune_llm and "tune_llm" in named:
            raise ArgumentError(
                "`tune_llm` trains the language model whole and `lora` adapters of it; give one."
            )
        if self.lora_vision and self.tune_vision:
            raise ArgumentError("`lora_vision` and `tune_vision`: give one of them.")
        if self.lora_resampler and "tune_resampler" in named and self.tune_resampler:
            raise ArgumentError("`lora_resampler` and `tune_resampler`: give one of them.")
        if self.tune_embeddings and not self.uses_lora:
            raise ArgumentError("`tune_embeddings` has no effect without `lora`.")
        llm = self.tune_llm and not self.uses_lora
        parts = (self.uses_lora, llm, self.tune_resampler, self.tune_vision)
        if not any(parts):
            raise ArgumentError(
                "nothing is trained; leave out one of `tune_llm=False` and `tune_resampler=False`."
            )
        if "decay" in named and self.decay != 0.1 and self.schedule not in DECAYING:
            raise ArgumentError(
                f"`decay` has no effect on `schedule` {self.schedule!r}; it is of "
                f"{' and '.join(DECAYING)}."
            )
        if self.half_life and self.schedule != "wsd":
            raise ArgumentError(f"`half_life` has no effect on `schedule` {self.schedule!r}.")
        if self.num_frames and self.fps:
            raise ArgumentError("`num_frames` and `fps`: give one of them.")
        if self.bf16 and self.fp16:
            raise ArgumentError("`bf16` and `fp16`: give one of them.")
        if self.dtype != "auto" and (self.bf16 or self.fp16):
            raise ArgumentError("`dtype` and `bf16` or `fp16`: give one of them.")
        if self.max_steps == 0:
            raise ArgumentError("`max_steps` is 0; give -1 for the steps of `epochs`, or a number.")
        if self.max_steps > 0 and "epochs" in named and self.epochs != 3.0:
            raise ArgumentError("`epochs` has no effect beside `max_steps`; give one of them.")
        for name in ("adam_beta1", "adam_beta2"):
            is_adam = self.optim.startswith("adamw")
            default = type(self).__dataclass_fields__[name].default
            if name in named and getattr(self, name) != default and not is_adam:
                raise ArgumentError(f"`{name}` has no effect on `optim` {self.optim!r}.")
        if self.eval_strategy == "epoch" and "eval_every" in named and self.eval_every != 100:
            raise ArgumentError("`eval_every` counts steps; `eval_strategy` is 'epoch'.")
        if self.feature_cache and "feature_cache" in named and self.tunes_vision:
            raise ArgumentError("`feature_cache` has no effect: the vision tower is trained.")
        if self.seed > _LARGEST_SEED:
            raise ArgumentError(f"`seed` is {self.seed}; it must be at most {_LARGEST_SEED}.")
        for name in ("lora_dropout", "adam_beta1", "adam_beta2"):
            if getattr(self, name) >= 1:
                raise ArgumentError(f"`{name}` is {getattr(self, name):g}; it must be below 1.")
        check_spread(self.deepspeed, self.qlora)

    @property
    def asked_dtype(self) -> str:
        """The dtype that was asked for; "auto" when none was."""
        if self.bf16 or self.fp16:
            return "bfloat16" if self.bf16 else "float16"
        if self.dtype == "auto" and "bf16" in given(self) and "fp16" not in given(self):
            return "float32"  # --bf16 false
        return self.dtype
