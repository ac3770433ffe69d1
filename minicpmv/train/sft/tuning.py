"""One fine-tuning in its folder: its data, its model, and what it writes.

`train dpo` is a subclass with another trainer and other rows.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ...adapters.parts import apply_parts, widen_trained
from ...adapters.save import save_adapter
from ...checkpoint.hub import Checkpoint
from ...checkpoint.tensors import skeleton
from ...data.faults import DataError, Fault
from ...data.files import Rows, open_rows
from ...data.messages import Conversation, Preference
from ...data.packing import plan_rows
from ...data.prepared import Prepared, prepare
from ...data.report import Report
from ...devices import hardware_of
from ...errors import ArgumentError
from ...loader import MODEL_CLASSES, load, load_processor, read_config, readable_errors
from ...media.policy import MediaPolicy
from ...model.packed import why_not_packed
from ...precision import Precision, dtype_name, stored_dtype
from ...quiet import progress_bar
from ...releases import model_type_of
from ..flags import TrainingFlags
from ..options import given
from ..spread import check_spread_device, spread_by, spreads_weights
from ..step import prepare_process
from . import arguments as told
from . import checkpoints, full
from .callbacks import Log
from .estimate import Estimate, estimate, memory_now
from .trainer import FineTuner

_LARGE = 1_000_000_000  # parameters from which on layers are computed again by default


@dataclasses.dataclass(frozen=True)
class Result:
    """What a training took.

    Fields:
        folder: with the adapter or the checkpoint.
        steps: of the optimizer, all sessions together.
        loss: the last that was logged, in nats per trained token.
        seconds: of this session's training; tokens_per_s: over all processes.
        peak_bytes: the most memory above that before the model was read.
        estimate: what was expected.
    """

    folder: Path
    steps: int
    loss: float | None
    seconds: float
    tokens_per_s: float
    peak_bytes: int
    estimate: Estimate | None


class FineTuning:
    """One run in its folder; `train dpo` is a subclass.

    Attributes:
        trainer_class: with its `compute_loss`.
        is_preference: the kind of rows that it takes.
    """

    trainer_class: type[FineTuner] = FineTuner
    is_preference = False

    def __init__(self, options: TrainingFlags) -> None:
        _check_packages()
        if options.threads:
            torch.set_num_threads(options.threads)
        self.options = options
        self.folder = Path(options.output)
        self.device = told.device_of(options)
        check_spread_device(options.deepspeed, self.device.type)
        self.precision: Precision = told.precision_for(options, self.device)
        self.args = told.training_arguments(options, self.precision)
        self.log = Log(self.folder, bool(self.args.should_save))
        self.start_bytes = 0
        self.eval_prepared: Prepared | None = None
        self.resume: Path | None = None

    def prepare_all(self) -> bool:
        """Everything before the weights are read: whether there is something to train.

        Raises:
            DataError: rows have faults.
            ValueError, OSError: something else is wrong.
        """
        options = self.options
        checkpoints.check_same_run(self.folder, checkpoints.options_of(options))
        self.read_base()
        self.parts = told.parts_of(options, self.sees_pictures)
        self.prepared, self.report = self.prepare(options.data, "data")
        if options.eval_data:
            self.eval_prepared, _ = self.prepare(options.eval_data, "eval_data")
        self.log(self.report.as_text())
        self.settle()
        self.estimate = self.estimated()
        if options.estimate or options.dry_run:
            if self.log.is_main:
                print(self.estimate.as_text())
            return False
        return self.claim()

    def read_base(self) -> None:
        """The small files of the model, before anything long begins."""
        options = self.options
        self.checkpoint = Checkpoint.find(options.model)
        with readable_errors(self.checkpoint):
            self.fields = read_config(self.checkpoint)
            self.processor: Any = load_processor(self.checkpoint, self.fields)
        self.model_type = model_type_of(self.fields)
        config = MODEL_CLASSES[self.model_type].config_class.from_dict(dict(self.fields))
        told.check_llm_type(options, config.get_text_config().model_type)
        self.config = config
        self.sees_pictures = hasattr(self.processor, "image_processor")
        if self.fields.get("quantization_config"):
            raise ArgumentError(
                f"`model` {options.model!r} holds quantised weights, which cannot be trained. Take "
                "the full ones of the release, with `qlora` for little memory."
            )

    def prepare(self, path: str, name: str) -> tuple[Prepared, Report]:
        """Check and encode a file; the first process does it, the others read what it wrote."""
        options = self.options
        rows = open_rows(
            path, format=options.format or None, image_folder=options.image_folder or None
        )
        if rows.is_preference != self.is_preference:
            other = "minicpmv train dpo" if rows.is_preference else "minicpmv train sft"
            kind = "pairs of answers" if rows.is_preference else "conversations"
            raise ValueError(f"{path} holds {kind} ({rows.format}); they are for '{other}'.")
        with self.args.main_process_first(local=False), self.log.bar(f"reading {path}") as step:
            try:
                prepared, report = prepare(
                    rows,
                    self.processor,
                    told.encode_settings(options),
                    self.folder / name,
                    skip_bad_rows=options.skip_bad_rows,
                    on_progress=step,
                    on_fault=self._skipped if options.skip_bad_rows else None,
                )
            except DataError as error:
                command = told.check_command(path, options)
                raise DataError(error.faults, error.total, command) from None
        assert prepared is not None
        return prepared, report

    def _skipped(self, fault: Fault) -> None:
        self.log(f"skipped: {fault}")

    def settle(self) -> None:
        """Fill in what depends on the model: learning rate, checkpointing, steps, rows."""
        options, args = self.options, self.args
        self.empty = skeleton(MODEL_CLASSES[self.model_type], self.config)
        num_parameters = sum(parameter.numel() for parameter in self.empty.parameters())
        if not options.learning_rate:
            args.learning_rate = told.default_learning_rate(options, num_parameters)
        is_large = num_parameters >= _LARGE
        is_given = "gradient_checkpointing" in given(options)
        self.checkpoints_layers = options.gradient_checkpointing if is_given else is_large
        told.set_checkpointing(args, self.checkpoints_layers)
        self.capacity = options.batch * options.max_length
        reason = None if options.packing else "--no-packing"
        if reason is None:
            reason = why_not_packed(self.empty, self.capacity)
            if reason is not None:
                self.log(f"rows are not packed: {reason}")
        self.is_packed = reason is None
        group = args.world_size * args.gradient_accumulation_steps
        self.plan = self.planned(self.prepared, group)
        steps = len(self.plan) // group * options.epochs
        self.num_steps = options.max_steps if options.max_steps > 0 else max(1, -int(-steps // 1))
        told.set_schedule(args, options, self.num_steps)
        self.log(
            f"{len(self.prepared)} examples in {len(self.plan)} rows of up to {self.capacity} "
            f"tokens, {self.num_steps} steps of {group} rows, computing on {self.device} in "
            f"{self.precision}"
        )

    def planned(self, prepared: Prepared, group: int) -> list[list[int]]:
        """Which examples stand in which row."""
        if not self.is_packed and self.options.batch == 1:
            rows = plan_rows(prepared.lengths, 1, seed=self.options.seed, group=group)
        else:
            rows = plan_rows(prepared.lengths, self.capacity, seed=self.options.seed, group=group)
        return rows

    def estimated(self) -> Estimate:
        """The memory that training will take."""
        options = self.options
        model = self.empty
        model = apply_parts(model, self.parts, told.lora_of(options))
        stored = options.feature_cache and self.parts.vision is False
        slices = 0 if stored else self._most_slices()
        sharded: tuple[str, ...] = ()
        if self.is_sharded:
            sharded = ("weights", "gradients", "optimizer")
        elif spread_by(options.deepspeed) == "ZeRO-2":
            sharded = ("gradients", "optimizer")
        return estimate(
            model,
            dtype=self.precision.dtype,
            frozen_dtype=self.frozen_dtype,
            capacity=min(self.capacity, int(self.prepared.lengths.sum())),
            longest=int(self.prepared.lengths.max()),
            slices=slices,
            targets=self._most_targets(),
            checkpointing=self.checkpoints_layers,
            quantize="nf4" if options.qlora else None,
            num_devices=self.args.world_size,
            sharded=sharded,
            free_bytes=hardware_of(self.device).free_bytes,
            device_type=self.device.type,
        )

    def _most_slices(self) -> int:
        """Slices of the row that has most."""
        counts = [
            sum(ref.num_slices for number in row for ref in self.prepared[number].pictures)
            for row in self.plan[:200]
        ]
        return max(counts, default=0)

    def _most_targets(self) -> int:
        """Trained tokens of the row that has most."""
        counts = [
            sum(self.prepared[number].num_trained for number in row) for row in self.plan[:200]
        ]
        return max(counts, default=0)

    @property
    def is_sharded(self) -> bool:
        """Whether weights are spread over processes (FSDP, ZeRO-3)."""
        return spreads_weights(self.options.deepspeed)

    def claim(self) -> bool:
        """Make the folder this run's, and find where to go on; False where all is done already.

        Raises:
            ValueError, OSError: the folder holds something else.
        """
        facts = {
            "data": self.prepared.about["key"],
            "eval_data": self.eval_prepared.about["key"] if self.eval_prepared else None,
            "num_processes": self.args.world_size,
        }
        wanted = checkpoints.options_of(self.options, **facts)
        is_done = False
        with self.args.main_process_first(local=False):
            is_known = checkpoints.check_same_run(self.folder, wanted)
            if self.log.is_main:
                for path in checkpoints.remove_broken(self.folder):
                    self.log(f"{path.name} was not finished and is thrown away")
            if is_known:
                is_done = (self.folder / checkpoints.REPORT).is_file()
                self.resume = checkpoints.newest(self.folder)
            elif self.log.is_main:
                checkpoints.write_whole(self.folder / checkpoints.OPTIONS, wanted)
        if is_done:
            self.log(f"{self.folder} is trained already; give another --output to train anew")
            return False
        if self.resume is not None:
            self.log(f"going on from {self.resume.name} in {self.folder}")
        return True

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Of weights that are not trained. A whole checkpoint must get them back as they were."""
        dtype = self.precision.dtype
        is_written = not self.parts.uses_lora
        if self.parts.language == "full" or (is_written and stored_dtype(self.fields) != dtype):
            return torch.float32
        return dtype

    def load_model(self) -> None:
        """The model with what is trained in float32, and adapters where they are wanted."""
        options = self.options
        if self.device.type == "cpu":
            prepare_process()
        self.start_bytes = memory_now(self.device)
        frozen_dtype = self.frozen_dtype
        if self.is_sharded:
            with progress_bar(False):
                self.model: Any = MODEL_CLASSES[self.model_type].from_pretrained(
                    self.checkpoint.location, dtype=frozen_dtype, **self.checkpoint.keywords
                )
        else:
            chat = load(
                options.model,
                self.device,
                frozen_dtype,
                quantize="nf4" if options.qlora else None,
                progress=False,
            )
            self.model = chat.model
        keep_trainable(self.model)
        set_seed(options.seed)
        if options.adapter:
            from ...adapters.load import attach

            self.model = attach(self.model, options.adapter, trainable=True)
        else:
            self.model = apply_parts(self.model, self.parts, told.lora_of(options))
            widen_trained(self.model)
        self.model.config.use_cache = False

    def save(self, model: Any, folder: Path, state: Any, *, is_last: bool = False) -> None:
        """Write the adapter, or the whole model: in float32 for resuming, as the base at last."""
        if hasattr(model, "peft_config"):
            settings = self.training_settings()
            save_adapter(model, self.processor, folder, settings, state_dict=state)
            return
        dtype = (stored_dtype(self.fields) or torch.float32) if is_last else torch.float32
        full.save_checkpoint(model, self.checkpoint, folder, dtype=dtype, state=state)

    def training_settings(self) -> dict[str, Any]:
        """What training_settings.json says beside the adapter's own facts."""
        options = self.options
        return {
            "base_revision": self.checkpoint.commit,
            "max_slice_nums": options.max_slice_nums or None,
            "dtype": dtype_name(self.precision.dtype),
            "data": self.prepared.about["key"]["files"],
        }

    def samples(self) -> list[Conversation | Preference]:
        """Rows whose questions are asked while training."""
        options = self.options
        rows: Rows = open_rows(
            options.eval_data or options.data,
            format=options.format or None,
            image_folder=options.image_folder or None,
        )
        good = {example_row(self.eval_prepared or self.prepared, n) for n in range(1000)}
        found: list[Conversation | Preference] = []
        for row in rows:
            if len(found) == options.samples:
                break
            if not isinstance(row, Fault) and row.row in good:
                found.append(row)
        return found

    def finish(self, result: Result) -> None:
        """Write report.json, the last thing of a run, and say where everything is."""
        if not self.log.is_main:
            return
        content = {
            "steps": result.steps,
            "loss": result.loss,
            "seconds": round(result.seconds, 2),
            "tokens_per_s": round(result.tokens_per_s, 1),
            "estimate": result.estimate.as_dict() if result.estimate else None,
            "peak_bytes": result.peak_bytes,
            "data": {k: v for k, v in self.report.as_dict().items() if k != "all_faults"},
            "skipped": [str(fault) for fault in self.report.all_faults],
        }
        checkpoints.write_whole(self.folder / checkpoints.REPORT, content)
        expected = result.estimate.total if result.estimate else 0
        self.log(
            f"trained {result.steps} steps in {result.seconds:.0f} s, {result.tokens_per_s:.0f} "
            f"tokens/s, {result.peak_bytes / 1e9:.2f} GB at most ({expected / 1e9:.2f} GB "
            f"estimated). Written to {self.folder}."
        )


def keep_trainable(model: Any) -> None:
    """Keep 4-bit weights in the layout that gradients pass through.

    bitsandbytes rewrites them at the first product in evaluation mode on a CPU with AVX-512, for a
    faster kernel that has no backward pass: training after a sample would learn nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def example_row(prepared: Prepared, number: int) -> int:
    """The row in its file of an example; -1 where there is none."""
    return prepared[number].row if number < len(prepared) else -1


def media_policy(options: TrainingFlags) -> MediaPolicy:
    schemes = ("file", "data", "http", "https") if options.allow_urls else ("file", "data")
    return MediaPolicy(schemes=schemes, warns=False)


def _check_packages() -> None:
    """
    Raises:
        ImportError: one of the extra `train` is missing.
    """
    try:
        import matplotlib  # noqa: F401
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Training needs {error.name}, which is not installed. Install it with: pip install "
            "'minicpmv[train]'"
        ) from error


__all__ = ["FineTuning", "Result", "media_policy"]
