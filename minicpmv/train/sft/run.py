"""Fine-tuning from options to a folder: check the data, load the model, train, write what came out.

run(options)      everything, as `minicpmv train sft` does
carry_out(tuning) the same for a subclass of FineTuning
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

from ...data.collate import Collator
from ...data.packing import RowDataset
from ...data.pictures import PictureReader
from ...media.policy import use_policy
from ...model.packed import use_packed_attention
from ..disk import disk_errors
from ..features import fill, open_store
from ..flags import TrainingFlags
from .arguments import wsd_rate
from .callbacks import Complete, Progress, Samples
from .estimate import peak_memory
from .trainer import FineTuner
from .tuning import FineTuning, Result, media_policy


def run(options: TrainingFlags) -> None:
    """Fine-tune as the options say.

    Raises:
        DataError: rows have faults.
        ValueError, OSError: something else is wrong, in one line.
    """
    options.check()
    carry_out(FineTuning(options))


def carry_out(tuning: FineTuning) -> Result | None:
    """The whole of a run; None where nothing was to be trained."""
    with use_policy(media_policy(tuning.options)), disk_errors(tuning.options.output):
        if not tuning.prepare_all():
            return None
        tuning.load_model()
        result = train(tuning)
        tuning.finish(result)
    return result


def train(tuning: FineTuning) -> Result:
    """Train a model that is loaded, on examples that are prepared, and write it to its folder."""
    model, processor, prepared = tuning.model, tuning.processor, tuning.prepared
    options = tuning.options
    args, log = tuning.args, tuning.log
    if tuning.is_packed:
        use_packed_attention(model)
    reader = PictureReader()
    store = None
    if options.feature_cache and tuning.sees_pictures:
        max_bytes = int(options.feature_cache_gb * 1e9)
        store, reason = open_store(Path(options.output) / "features", model, prepared, max_bytes)
        if store is None:
            log(f"pictures are encoded in each step: {reason}")
    if store is not None:
        model.to(args.device)
        rank, count = args.process_index, args.world_size
        with log.bar("encoding pictures") as step:
            fill(
                store, model, processor, prepared, reader, rank=rank, count=count, on_progress=step
            )
        if count > 1:
            torch.distributed.barrier()
        store.refresh()
    idle = args.world_size > 1 and bool(tuning.parts.resampler or tuning.parts.vision)
    collator = Collator(
        prepared,
        processor,
        store,
        packed=tuning.is_packed,
        idle_slice=idle and tuning.sees_pictures,
        reader=reader,
    )
    trainer = _trainer(tuning, collator, reader)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(tuning.resume) if tuning.resume else None)
    seconds = time.perf_counter() - started
    _save_last(trainer, tuning)
    return Result(
        folder=Path(options.output),
        steps=trainer.state.global_step,
        loss=next((r["loss"] for r in reversed(trainer.state.log_history) if "loss" in r), None),
        seconds=seconds,
        tokens_per_s=trainer.num_tokens * args.world_size / max(1e-9, seconds),
        peak_bytes=max(0, peak_memory(tuning.device) - tuning.start_bytes),
        estimate=tuning.estimate,
    )


def _trainer(tuning: FineTuning, collator: Collator, reader: PictureReader) -> FineTuner:
    model, processor, options = tuning.model, tuning.processor, tuning.options
    args, log, folder = tuning.args, tuning.log, Path(options.output)
    eval_rows = None
    eval_collator = collator
    if tuning.eval_prepared is not None:
        eval_rows = RowDataset(tuning.planned(tuning.eval_prepared, args.world_size))
        eval_collator = Collator(
            tuning.eval_prepared,
            processor,
            packed=tuning.is_packed,
            idle_slice=collator.idle_slice,
            reader=reader,
        )
    trainer = tuning.trainer_class(
        save=tuning.save,
        eval_collator=eval_collator,
        rate=partial(wsd_rate, options, args) if options.schedule == "wsd" else None,
        model=model,
        args=args,
        train_dataset=RowDataset(tuning.plan, options.seed),
        eval_dataset=eval_rows,
        data_collator=collator,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Complete(folder, options.keep))
    trainer.add_callback(Progress(folder, log, lambda: trainer.num_tokens))
    if options.samples and not tuning.is_sharded:
        settings: dict[str, Any] = {"max_new_tokens": options.sample_tokens}
        if options.max_slice_nums and tuning.sees_pictures:
            settings["max_slice_nums"] = options.max_slice_nums
        trainer.add_callback(
            Samples(
                folder,
                model,
                processor,
                tuning.samples(),
                every=options.samples_every,
                settings=settings,
            )
        )
    return trainer


def _save_last(trainer: FineTuner, tuning: FineTuning) -> None:
    def save(model: Any, folder: Path, state: Any) -> None:
        tuning.save(model, folder, state, is_last=True)

    trainer.save_to = save
    if trainer.is_fsdp_enabled:  # checkpoints may be in shards, what comes out is whole
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(tuning.folder))


__all__ = ["FineTuning", "Result", "carry_out", "run", "train"]
