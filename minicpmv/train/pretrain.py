"""Pre-train the default model: random weights to a small release 2.6 that answers about rendered
scenes.

    options -> model -> data -> trainer -> save

Two stages share one run. The dense stage teaches the vision tower alone what lies under every
patch; it stands in for SigLIP's pre-training. The joint stage trains everything on questions and
answers, with the dense targets fading to a small weight. (The papers freeze the language model
here; one from random weights has nothing worth freezing.) The learning rate warms up, stays, and
falls linearly to zero at the end (MiniCPM, arXiv 2404.06395, section 4).
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from minicpmv import auto  # noqa: F401 - so that checkpoints are saved under the released names
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.train.dialogue import IGNORED, TASK_NAMES, DialogueWriter
from minicpmv.train.feed import Batch, FeedOptions, batches, make_batch
from minicpmv.train.files import write_processor_files
from minicpmv.train.muon import MuonAdamW
from minicpmv.train.network import Losses, TrainingNetwork, initialise
from minicpmv.train.options import field_help
from minicpmv.train.tokenizer import save_tokenizer, train_tokenizer

STATE_FILE = "training_state.pt"


@dataclasses.dataclass
class PretrainOptions:
    """Everything that `minicpmv train pretrain` can be told."""

    output: str = "runs/nano"
    """folder for the checkpoint; a run that was interrupted goes on from there"""
    steps: int = 3200
    """steps in all, both stages; may be changed when going on, before the decay has begun"""
    dense_steps: int = 600
    """first steps, on dense targets alone"""
    batch_size: int = 32
    """pictures per step, each with up to eight questions"""
    learning_rate: float = 0.006
    """of Muon, for the matrices of the layers"""
    adam_learning_rate: float = 0.0015
    """of AdamW, for embeddings, norms, resampler and heads"""
    weight_decay: float = 0.01
    """of the matrices"""
    warmup_steps: int = 40
    """steps until the full learning rate, at the beginning of each stage"""
    decay: float = 0.25
    """share of all steps, at the end, in which the learning rate falls to zero"""
    dense_weight: float = 12.0
    """weight of the dense loss at the beginning of the joint stage"""
    final_dense_weight: float = 4.0
    """and from the middle of the joint stage on"""
    seed: int = 0
    """of the weights and the scenes"""
    vision_size: int = 256
    """width of the vision tower"""
    vision_layers: int = 4
    """depth of the vision tower"""
    vision_heads: int = 2
    """attention heads of the vision tower"""
    hidden_size: int = 256
    """width of the language model, a multiple of 128"""
    layers: int = 5
    """depth of the language model"""
    heads: int = 4
    """attention heads of the language model; it has half as many for keys and values"""
    queries: int = 64
    """visual tokens per slice"""
    scale_resolution: int = 224
    """side of the square that pictures are resized to, in pixels"""
    length: int = 176
    """tokens of a training sequence"""
    dtype: str = "bfloat16"
    """of weights and activations; the optimizer keeps float32 copies"""
    compile: bool = True
    """use torch.compile: one to two minutes at the start, a third faster afterwards"""
    workers: int = 1
    """processes that render; 0 renders in the training process"""
    worker_cores: str = ""
    """cores for them, such as 1 or 2,3, where the system can bind processes"""
    save_every: int = 250
    """steps between checkpoints"""
    evaluate_every: int = 250
    """steps between looks at held-out scenes"""
    log_every: int = 25
    """steps between progress lines"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per field of `PretrainOptions`, and `--config` for a file of them."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="JSON file with options, named as the flags with underscores",
    )
    help_of = field_help(PretrainOptions)
    for field in dataclasses.fields(PretrainOptions):
        flag = "--" + field.name.replace("_", "-")
        text = f"{help_of[field.name]} (default: {field.default})"
        if field.type is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            kind: Any = field.type
            parser.add_argument(
                flag, type=kind, default=argparse.SUPPRESS, metavar=kind.__name__.upper(), help=text
            )


def run(args: argparse.Namespace) -> int:
    """Train with the options of a parsed command line: defaults, then the file, then the flags."""
    names = {field.name for field in dataclasses.fields(PretrainOptions)}
    values: dict[str, Any] = {}
    if args.config:
        values = json.loads(Path(args.config).read_text(encoding="utf-8"))
        unknown = sorted(set(values) - names)
        if unknown:
            raise ValueError(
                f"{args.config} has unknown options: {', '.join(unknown)}. "
                "'minicpmv train pretrain --help' lists the known ones."
            )
    values |= {name: value for name, value in vars(args).items() if name in names}
    Pretraining(PretrainOptions(**values)).train()
    return 0


def build_config(options: PretrainOptions, vocab_size: int) -> MiniCPMVConfig:
    """Release 2.6 in small."""
    sizes = {
        "hidden_size": options.hidden_size,
        "intermediate_size": 3 * options.hidden_size,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": max(1, options.heads // 2),
        "vocab_size": vocab_size,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,  # short texts
    }
    return MiniCPMVConfig.from_dict(
        {
            "model_type": "minicpmv",
            "version": "2.6",
            "architectures": ["MiniCPMV"],
            **sizes,
            "tie_word_embeddings": False,
            "image_size": options.scale_resolution,
            "patch_size": 14,
            "query_num": options.queries,
            "slice_mode": True,
            "drop_vision_last_layer": False,
            "batch_vision_input": True,
            "use_image_id": True,
            "slice_config": {
                "max_slice_nums": 1,
                "patch_size": 14,
                "scale_resolution": options.scale_resolution,
                "model_type": "minicpmv",
            },
            "vision_config": {
                "hidden_size": options.vision_size,
                "image_size": options.scale_resolution,
                "intermediate_size": 4 * options.vision_size,
                "model_type": "siglip",
                "num_attention_heads": options.vision_heads,
                "num_hidden_layers": options.vision_layers,
                "patch_size": 14,
            },
        }
    )


class Pretraining:
    """One run: builds or resumes everything from the options, then trains."""

    def __init__(self, options: PretrainOptions) -> None:
        self.options = options
        self.folder = Path(options.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        tokenizer_file = self.folder / "tokenizer.json"
        if not tokenizer_file.exists():
            save_tokenizer(train_tokenizer(), self.folder)
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self.config = build_config(options, tokenizer.get_vocab_size())
        self.feed = FeedOptions(
            tokenizer_file=str(tokenizer_file),
            batch_size=options.batch_size,
            num_queries=options.queries,
            scale_resolution=options.scale_resolution,
            length=options.length,
            # Seeds of different runs do not meet: a run draws far fewer than 2**32 scenes.
            seed=options.seed << 32,
        )
        self.writer = DialogueWriter(tokenizer, options.queries, options.length)
        write_processor_files(self.folder, options.queries, options.scale_resolution)

        generator = torch.Generator().manual_seed(options.seed)
        torch.manual_seed(options.seed)
        self.model = MiniCPMVForConditionalGeneration._from_config(
            self.config, attn_implementation="eager"
        )
        initialise(self.model, generator)
        dtype = getattr(torch, options.dtype)
        self.network = TrainingNetwork(self.model, self.writer.image_start).to(dtype)
        self.optimizer = self._build_optimizer()
        self.step = 0
        self._held_out: list[Batch] = []
        if (self.folder / STATE_FILE).exists():
            self._load()

    def _build_optimizer(self) -> MuonAdamW:
        options = self.options
        named = dict(self.network.named_parameters())
        matrices = {
            name: parameter
            for name, parameter in named.items()
            if parameter.ndim == 2 and ".layers." in name
        }
        return MuonAdamW(
            list(matrices.values()),
            [parameter for name, parameter in named.items() if name not in matrices],
            learning_rate=options.learning_rate,
            adam_learning_rate=options.adam_learning_rate,
            weight_decay=options.weight_decay,
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step, as a share of the full one."""
        options = self.options
        since = step - options.dense_steps if step >= options.dense_steps else step
        warm = min(1.0, (since + 1) / max(1, options.warmup_steps))
        remaining = (options.steps - step) / max(1.0, options.decay * options.steps)
        return min(warm, 1.0, remaining)

    def dense_weight(self, step: int) -> float:
        """The weight of the dense loss: all of it in the dense stage, then a linear fall."""
        options = self.options
        if step < options.dense_steps:
            return 1.0
        half = max(1.0, (options.steps - options.dense_steps) / 2)
        progress = min(1.0, (step - options.dense_steps) / half)
        return options.dense_weight + progress * (options.final_dense_weight - options.dense_weight)

    def train(self) -> None:
        """Train from the current step to the last; writes checkpoints and a log on the way."""
        options = self.options
        forward: nn.Module = self.network
        if options.compile:
            forward = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        cores = tuple(int(core) for core in options.worker_cores.split(",") if core)
        source = batches(self.feed, self.step, workers=options.workers, cores=cores)
        meter = Meter(options.batch_size)
        while self.step < options.steps:
            batch = next(source)
            with_language = self.step >= options.dense_steps
            tensors = self.network.tensors(batch)
            losses: Losses = forward(tensors, with_language)
            loss = losses.language + self.dense_weight(self.step) * losses.dense
            if not math.isfinite(loss.item()):
                raise ValueError(
                    f"The loss is {loss.item()} at step {self.step}. Go on from {self.folder} "
                    f"with a lower --learning-rate (now {options.learning_rate})."
                )
            loss.backward()
            norm = self.optimizer.step(self.rate(self.step))
            self.step += 1
            meter.add(batch, losses, norm, with_language)
            if self.step % options.log_every == 0 or self.step == options.steps:
                self._log(meter.report(self.step, options.steps, self.rate(self.step)))
            last = self.step == options.steps
            if with_language and (last or self.step % options.evaluate_every == 0):
                self._log(self.evaluate(forward))
            if last or self.step % options.save_every == 0:
                self.save()
        source.close()  # type: ignore[attr-defined]

    @torch.no_grad()
    def evaluate(self, forward: nn.Module, num_batches: int = 6) -> str:
        """Share of answers right on held-out scenes, by task.

        An answer counts when every one of its tokens is the likeliest given the true ones before,
        which is when greedy decoding gives it.
        """
        if not self._held_out:
            feed = dataclasses.replace(self.feed, split="test", seed=1 << 60)
            self._held_out = [make_batch(i, feed, self.writer) for i in range(num_batches)]
        meter = Meter(self.options.batch_size)
        for batch in self._held_out:
            meter.add(batch, forward(self.network.tensors(batch), True), 0.0, True)
        return f"held out {self.step}: {meter.accuracies()}"

    def save(self) -> None:
        """Write the checkpoint and, beside it, what resuming needs. A kill leaves the last
        complete one.
        """
        parts = self.folder / "saving"
        shutil.rmtree(parts, ignore_errors=True)
        self.model.save_pretrained(parts)
        state = {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "steps": self.options.steps,
        }
        torch.save(state, parts / STATE_FILE)
        # transformers writes defaults there; ours are in the folder from the start.
        (parts / "generation_config.json").unlink(missing_ok=True)
        for path in sorted(parts.iterdir(), key=lambda path: path.name == STATE_FILE):
            os.replace(path, self.folder / path.name)
        parts.rmdir()

    def _load(self) -> None:
        state = torch.load(self.folder / STATE_FILE, weights_only=True)
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self._log(f"going on from step {self.step} of {self.options.steps} in {self.folder}")

    def _log(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(time.strftime("%H:%M:%S ", time.gmtime()) + line + "\n")


class Meter:
    """Averages since the last report."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.clear()

    def clear(self) -> None:
        self.language: list[float] = []
        self.dense: list[float] = []
        self.norms: list[float] = []
        self.right: dict[int, list[bool]] = defaultdict(list)
        self.start = time.perf_counter()

    def add(self, batch: Batch, losses: Losses, norm: float, with_language: bool) -> None:
        self.dense.append(float(losses.dense.detach()))
        self.norms.append(norm)
        if not with_language:
            return
        self.language.append(float(losses.language.detach()))
        dialogue = batch.dialogue
        predicted = losses.predicted.numpy()
        for row, labels in enumerate(dialogue.labels):
            places = np.flatnonzero(labels != IGNORED)[: predicted.shape[1]]
            if not len(places):  # a scene that admits no question
                continue
            hits = predicted[row, : len(places)] == labels[places]
            # An answer is a run of neighbouring places.
            starts = np.flatnonzero(np.diff(places, prepend=-2) > 1)
            for answer, where in zip(np.split(hits, starts[1:]), places[starts], strict=True):
                self.right[int(dialogue.tasks[row, where])].append(bool(answer.all()))

    def accuracies(self) -> str:
        return " ".join(
            f"{TASK_NAMES[task]} {100 * sum(right) / len(right):.0f}%"
            for task, right in sorted(self.right.items())
        )

    def report(self, step: int, steps: int, rate: float) -> str:
        """One progress line; starts the averages anew."""
        seconds = time.perf_counter() - self.start
        speed = len(self.dense) * self.batch_size / seconds
        line = (
            f"step {step}/{steps} dense {np.mean(self.dense):.3f} norm {np.mean(self.norms):.2f} "
            f"rate {rate:.2f} {speed:.1f} pictures/s "
            f"{(steps - step) * self.batch_size / speed / 60:.0f} min left"
        )
        if self.language:
            line += f" language {np.mean(self.language):.3f} | {self.accuracies()}"
        self.clear()
        return line
