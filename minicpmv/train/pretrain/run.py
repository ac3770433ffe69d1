"""Pre-train the default model: random weights to a small release 2.6 that reads rendered scenes.

    options -> plan -> model -> stages of batches -> checkpoint

A run is a function of its options: interrupted at any moment, it goes on from its last checkpoint
and ends with the same weights as an uninterrupted one.
"""

import dataclasses
import json
import math
import os
import random
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from minicpmv import auto  # noqa: F401 - so that checkpoints are saved under the released names
from minicpmv.chat import Chat
from minicpmv.devices import hardware_of, num_cores, parse_device
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.precision import choose_training_dtype, parse_dtype
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.quiet import progress_bar
from minicpmv.scenes import KINDS, questions_of, render
from minicpmv.train.muon import MuonAdamW
from minicpmv.train.pretrain import progress
from minicpmv.train.pretrain.dataloader import Batch, FeedOptions, batches, make_batch
from minicpmv.train.pretrain.dialogue import DialogueWriter
from minicpmv.train.pretrain.files import write_processor_files
from minicpmv.train.pretrain.network import Losses, TrainingNetwork, initialise
from minicpmv.train.pretrain.options import PretrainOptions, parse_cores, parse_steps
from minicpmv.train.pretrain.recipe import MAX_QUESTIONS, SIZES, STAGES, Stage, build_config
from minicpmv.train.pretrain.tokenizer import save_tokenizer, train_tokenizer
from minicpmv.train.processes import Processes

STATE_FILE = "training_state.pt"
PLAN_FILE = "plan.json"
SLICES = 32  # per step; rows and answers of a stage are counted for these
TIMED_STEPS = 4  # per stage, to find out how many steps fit in the minutes
# Where the resampler looks at first must outlive the language model's first guesses: at full rate
# all queries soon look at the same few patches, and what is elsewhere is lost.
_SLOW = ("resampler.query", "resampler.attn.in_proj_weight")
SAMPLES = 8  # questions asked at every look at held-out scenes


def run(options: PretrainOptions) -> None:
    """Train with these options, alone or as one of the processes of torchrun."""
    options.check()
    world = Processes()
    try:
        Pretraining(options, world).train()
    finally:
        world.close()


class Pretraining:
    """One run: builds or resumes everything from the options, then trains."""

    def __init__(self, options: PretrainOptions, world: Processes | None = None) -> None:
        options.check()
        self.options = options
        self.world = world or Processes()
        self.folder = Path(options.output)
        self.device = self._device()
        if self.device.type == "cpu":
            torch.set_num_threads(options.threads or num_cores())
        self.size = SIZES[options.size]
        self.folder.mkdir(parents=True, exist_ok=True)
        tokenizer_file = self.folder / "tokenizer.json"
        if self.world.rank == 0:
            if not tokenizer_file.exists():
                save_tokenizer(train_tokenizer(), self.folder)
            write_processor_files(self.folder, self.size.queries, self.size.scale_resolution)
        self.world.wait()
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self.writer = DialogueWriter(tokenizer, self.size.queries)

        generator = torch.Generator().manual_seed(options.seed)
        torch.manual_seed(options.seed)
        config = build_config(self.size, tokenizer.get_vocab_size())
        self.model = MiniCPMVForConditionalGeneration._from_config(
            config, attn_implementation="eager"
        )
        initialise(self.model, self.size.map_side, generator)
        self.network = TrainingNetwork(self.model, self.writer)
        if options.start:
            self._start_from(Path(options.start))
        self.precision = choose_training_dtype(hardware_of(self.device), parse_dtype(options.dtype))
        self.network.to(self.device, self.precision.dtype)
        self.optimizer = self._build_optimizer()
        self.step = 0
        self.plan: list[int] = []
        self._held_out: dict[str, list[Batch]] = {}
        if (self.folder / STATE_FILE).exists():
            self._load()

    def _device(self) -> torch.device:
        device = parse_device(self.options.device)
        if device.type == "cuda":
            if device.index is None and self.world.count > 1:
                device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        return device

    def _start_from(self, folder: Path) -> None:
        """Take what has the same shapes in another run: parts of the model, and the heads."""
        with progress_bar(False):
            other = MiniCPMVForConditionalGeneration.from_pretrained(folder)
        words = [path / "tokenizer.json" for path in (folder, self.folder)]
        same_words = words[0].exists() and words[0].read_bytes() == words[1].read_bytes()
        mine, theirs = self.model.state_dict(), other.state_dict()
        parts: dict[str, list[str]] = defaultdict(list)
        for name in mine:
            parts[name.removeprefix("model.").split(".")[0]].append(name)
        taken = [
            part
            for part, names in parts.items()
            # With other words a language model has to be learned anew.
            if (same_words or part not in ("language_model", "lm_head"))
            and all(name in theirs and theirs[name].shape == mine[name].shape for name in names)
        ]
        if not taken:
            raise ValueError(
                f"Nothing in {folder} has the shapes of a model of --size {self.options.size}: "
                "give the size that it was trained with, or leave out --start."
            )
        fitting = {name: theirs[name] for part in taken for name in parts[part]}
        self.model.load_state_dict(mine | fitting)
        if (folder / STATE_FILE).exists():
            theirs = torch.load(folder / STATE_FILE, weights_only=True)["heads"]
            mine = self.network.heads.state_dict()
            if {n: v.shape for n, v in mine.items()} == {n: v.shape for n, v in theirs.items()}:
                self.network.heads.load_state_dict(theirs)
                taken.append("heads")
        self._log(f"starting from {folder}: {', '.join(taken)}")

    def _build_optimizer(self) -> MuonAdamW:
        options = self.options
        # The position table stays what it begins as: places that training rarely meets must go on
        # speaking as their neighbours do.
        self.model.model.vision_tower.embeddings.position_embedding.weight.requires_grad_(False)
        named = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        matrices = {
            name: parameter
            for name, parameter in named.items()
            if parameter.ndim == 2 and ".layers." in name
        }
        others = [name for name in named if name not in matrices]
        return MuonAdamW(
            list(matrices.values()),
            [named[name] for name in others],
            slow=[i for i, name in enumerate(others) if name.endswith(_SLOW)],
            learning_rate=options.learning_rate,
            adam_learning_rate=options.adam_learning_rate,
            weight_decay=options.weight_decay,
        )

    def feed(self, stage: Stage, split: str = "train") -> FeedOptions:
        """What the batches of a stage look like."""
        batch = self.options.batch
        return FeedOptions(
            tokenizer_file=str(self.folder / "tokenizer.json"),
            mix=stage.mix,
            slices=SLICES * batch,
            rows=stage.shape.rows * batch,
            length=stage.shape.length,
            answers=stage.shape.answers * batch,
            max_slices=stage.shape.max_slices,
            max_questions=MAX_QUESTIONS,
            tasks=stage.tasks,
            num_queries=self.size.queries,
            scale_resolution=self.size.scale_resolution,
            seed=self.options.seed,
            split=split,
            with_text=stage.with_text,
        )

    def stage_at(self, step: int) -> tuple[int, int]:
        """The number of the stage that a step belongs to, and the first step of that stage."""
        first = 0
        for number, steps in enumerate(self.plan):
            if step < first + steps:
                return number, first
            first += steps
        return len(self.plan) - 1, first - self.plan[-1]

    def rate(self, step: int) -> float:
        """The learning rate of a step, as a share of the full one."""
        number, first = self.stage_at(step)
        start, end = STAGES[number].rate
        warm = min(1.0, (step - first + 1) / max(1, self.options.warmup_steps))
        return warm * (start + (end - start) * (step - first) / max(1, self.plan[number]))

    def dense_weight(self, step: int) -> float:
        """The weight of the dense loss in a step."""
        number, first = self.stage_at(step)
        start, end = STAGES[number].dense_weight
        return start + (end - start) * (step - first) / max(1, self.plan[number])

    def train(self) -> None:
        """Train from the current step to the last; writes checkpoints and a log on the way."""
        _check_matplotlib()
        options = self.options
        self._log(f"computing on {self.device} in {self.precision}")
        forward: nn.Module = self.network
        if options.compile:
            forward = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        if not self.plan:
            self._make_plan(forward)
        total = sum(self.plan)
        while self.step < total:
            number, first = self.stage_at(self.step)
            self._train_stage(forward, number, first, total)

    def _make_plan(self, forward: nn.Module) -> None:
        """Decide how many steps every stage has, once and for all of this run."""
        if self.options.steps:
            plan = parse_steps(self.options.steps)
        elif self.options.minutes:
            plan = self._fit_minutes(forward)
        else:
            plan = [stage.steps for stage in STAGES]
        self.plan = self.world.agree(plan)
        if self.world.rank == 0:
            steps = {stage.name: n for stage, n in zip(STAGES, self.plan, strict=True)}
            content = dataclasses.asdict(self.options) | {"steps": steps}
            text = json.dumps(content, indent=2)
            (self.folder / PLAN_FILE).write_text(text + "\n", encoding="utf-8")
        names = ", ".join(f"{n} {s.name}" for s, n in zip(STAGES, self.plan, strict=True))
        self._log(f"steps: {names}")

    def _fit_minutes(self, forward: nn.Module) -> list[int]:
        """How many steps of every stage fit in the minutes, by timing a few of each."""
        started = time.perf_counter()
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        seconds = []
        for stage in STAGES:
            self._log(f"timing the stage {stage.name}")
            feed = self.feed(stage)
            source = batches(feed, 0, workers=self.options.workers)
            batch = next(source)
            self._step(forward, batch, stage, 0.0, 1.0)  # compiles
            start = time.perf_counter()
            for _ in range(TIMED_STEPS):
                self._step(forward, next(source), stage, 0.0, 1.0)
            seconds.append((time.perf_counter() - start) / TIMED_STEPS)
            source.close()  # type: ignore[attr-defined]
        self.network.load_state_dict(before)
        self.optimizer = self._build_optimizer()
        left = 60 * self.options.minutes - (time.perf_counter() - started)
        if left <= 0:
            raise ValueError(
                f"{self.options.minutes:g} minutes are over before training begins: compiling took "
                f"{time.perf_counter() - started:.0f} s. Give more --minutes, or --no-compile."
            )
        return [
            max(1, round(left * stage.share / cost))
            for stage, cost in zip(STAGES, seconds, strict=True)
        ]

    def _step(
        self, forward: nn.Module, batch: Batch, stage: Stage, rate: float, dense_weight: float
    ) -> tuple[Losses, float]:
        losses: Losses = forward(self.network.tensors(batch), stage.with_text)
        loss = losses.language + dense_weight * losses.dense
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"The loss is {loss.item()} at step {self.step}. Go on from {self.folder} "
                f"with a lower --learning-rate (now {self.options.learning_rate})."
            )
        loss.backward()
        self.world.average(self.optimizer.parameters)
        return losses, self.optimizer.step(rate)

    def _train_stage(self, forward: nn.Module, number: int, first: int, total: int) -> None:
        options, stage = self.options, STAGES[number]
        stop = first + self.plan[number]
        cores = parse_cores(options.worker_cores)
        source = batches(
            self.feed(stage),
            (self.step - first) * self.world.count + self.world.rank,
            stride=self.world.count,
            workers=options.workers,
            cores=cores,
        )
        meter = progress.Meter()
        while self.step < stop:
            rate, weight = self.rate(self.step), self.dense_weight(self.step)
            batch = next(source)
            losses, norm = self._step(forward, batch, stage, rate, weight)
            self.step += 1
            meter.add(batch, losses, norm, stage.with_text)
            last = self.step == stop
            if last or self.step % options.log_every == 0:
                self._report(meter, stage, total)
            if last or self.step % options.evaluate_every == 0:
                self._look_at_held_out(stage)
                meter.clear()
            if last or self.step % options.save_every == 0:
                self.save()
        source.close()  # type: ignore[attr-defined]

    def _report(self, meter: progress.Meter, stage: Stage, total: int) -> None:
        speed = meter.slices_per_second() * self.world.count
        record = meter.record()
        meter.clear()
        left = (total - self.step) * SLICES * self.options.batch * self.world.count / speed / 60
        self._record("train", stage, record)
        self._log(
            f"{stage.name} {self.step}/{total} {progress.line(record)} norm {record['norm']:.2f} "
            f"rate {self.rate(self.step - 1):.2f} {speed:.1f} slices/s {left:.0f} min left"
        )

    @torch.no_grad()
    def _look_at_held_out(self, stage: Stage, num_batches: int = 4) -> None:
        """Losses and right answers on held-out scenes, the curve so far, and samples."""
        if self.world.rank:
            return
        if stage.name not in self._held_out:
            feed = self.feed(stage, "test")
            made = [make_batch(number, feed, self.writer) for number in range(num_batches)]
            self._held_out = {stage.name: made}
        meter = progress.Meter()
        for batch in self._held_out[stage.name]:
            losses = self.network(self.network.tensors(batch), stage.with_text)
            meter.add(batch, losses, 0.0, stage.with_text)
        record = meter.record()
        self._record("held out", stage, record)
        self._log(f"held out {self.step}: {progress.line(record)}")
        progress.plot(self.folder / "metrics.jsonl", self.folder / "losses.png")
        if stage.with_text:
            self._write_samples(stage)

    def _write_samples(self, stage: Stage) -> None:
        """Ask a few questions the way a user does, and keep the answers in samples.md."""
        processor = MiniCPMVProcessor.from_pretrained(self.folder)
        chat = Chat(self.model, processor, str(self.folder))
        kinds = sorted(kind for kind in stage.mix if kind in KINDS)
        lines = [f"## After step {self.step} ({stage.name})", ""]
        for number in range(SAMPLES):
            scene = render(number, "test", kind=kinds[number % len(kinds)])
            asked = questions_of(scene, 1, random.Random(number))
            picture = self.folder / "samples" / f"{number}.png"
            if not picture.exists():
                picture.parent.mkdir(exist_ok=True)
                scene.image.save(picture)
            for question in asked:
                answer = chat.ask(
                    question.text,
                    [scene.image],
                    sampling=False,
                    max_new_tokens=96,
                    max_slice_nums=stage.shape.max_slices,
                )
                lines += [
                    f"- [{number}](samples/{number}.png) {question.text!r}: {answer.text!r} "
                    f"(true: {question.answer!r})"
                ]
        with (self.folder / "samples.md").open("a", encoding="utf-8") as file:
            file.write("\n".join([*lines, "", ""]))

    def save(self) -> None:
        """Write the checkpoint and, beside it, what resuming needs. A kill leaves the last
        complete one.
        """
        self.world.wait()
        if self.world.rank:
            return
        parts = self.folder / "saving"
        shutil.rmtree(parts, ignore_errors=True)
        with progress_bar(False):
            self.model.save_pretrained(parts)
        state = {
            "step": self.step,
            "plan": self.plan,
            "heads": self.network.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, parts / STATE_FILE)
        # transformers writes defaults there; ours are in the folder from the start.
        (parts / "generation_config.json").unlink(missing_ok=True)
        for path in sorted(parts.iterdir(), key=lambda path: path.name == STATE_FILE):
            os.replace(path, self.folder / path.name)
        parts.rmdir()

    def _load(self) -> None:
        path = self.folder / STATE_FILE
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.step, self.plan = state["step"], state["plan"]
        self.optimizer.load_state_dict(state["optimizer"])
        self._log(f"going on from step {self.step} of {sum(self.plan)} in {self.folder}")

    def _record(self, kind: str, stage: Stage, record: dict) -> None:
        if self.world.rank:
            return
        slices = self.step * SLICES * self.options.batch * self.world.count
        head = {"kind": kind, "stage": stage.name, "step": self.step, "slices": slices}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(head | record) + "\n")

    def _log(self, line: str) -> None:
        if self.world.rank:
            return
        print(line, file=sys.stderr, flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(time.strftime("%H:%M:%S ", time.gmtime()) + line + "\n")


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Training draws its loss curve with matplotlib, which is not installed. "
            "Install it with: pip install 'minicpmv[train]'"
        ) from error
