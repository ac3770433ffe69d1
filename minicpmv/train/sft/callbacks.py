"""What a run writes while it trains: progress lines, metrics.jsonl, losses.png, samples.md, and the
mark of whole checkpoints."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ...chat import Chat
from ...data.messages import Conversation, Preference, chat_messages
from ...model.packed import plain_attention
from ...progress import bar
from . import checkpoints

METRICS = "metrics.jsonl"
_SHOWN = {"loss": "loss", "learning_rate": "rate", "grad_norm": "norm"}


class Log:
    """Lines for people, on stderr and in log.txt; only the first process speaks."""

    def __init__(self, folder: Path, is_main: bool) -> None:
        self.path = folder / "log.txt"
        self.is_main = is_main
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, text: str) -> None:
        if not self.is_main:
            return
        print(text, file=sys.stderr, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            for line in text.splitlines():
                file.write(time.strftime("%H:%M:%S ", time.gmtime()) + line + "\n")

    def bar(self, text: str) -> AbstractContextManager[Callable[[int, int | None], None]]:
        """`progress.bar` of the first process."""
        return bar(text, disable=None if self.is_main else True)


class Progress(TrainerCallback):
    """metrics.jsonl, a line per log, and the curve.

    Args:
        trained: gives the tokens that this process has trained on.
    """

    def __init__(self, folder: Path, log: Log, trained: Callable[[], int]) -> None:
        self.folder = folder
        self.log = log
        self.trained = trained
        self.started = self.last = time.perf_counter()
        self.first_step = 0
        self.last_tokens = 0
        self.last_loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.last = time.perf_counter()
        self.first_step = state.global_step
        if self.log.is_main:
            _cut_metrics(self.folder / METRICS, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:  # whatever --log-every says
            control.should_log = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any
    ) -> None:
        if not self.log.is_main or not logs or "train_runtime" in logs:
            return
        record: dict[str, Any] = {"step": state.global_step, "epoch": round(state.epoch or 0, 4)}
        record |= {name: value for name, value in logs.items() if isinstance(value, int | float)}
        if "loss" in logs:
            now, tokens = time.perf_counter(), self.trained()
            speed = (tokens - self.last_tokens) * args.world_size / max(1e-9, now - self.last)
            self.last, self.last_tokens, self.last_loss = now, tokens, logs["loss"]
            record["tokens_per_s"] = round(speed, 1)
            self.log(self._line(state, logs, speed))
        else:
            shown = " ".join(f"{n} {v:.4f}" for n, v in logs.items() if n != "epoch")
            self.log(f"step {state.global_step}/{state.max_steps}  {shown}")
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _line(self, state: Any, logs: dict[str, float], speed: float) -> str:
        parts = [f"step {state.global_step}/{state.max_steps}"]
        for name, value in logs.items():
            if name in _SHOWN:
                shown = f"{value:.2e}" if name == "learning_rate" else f"{value:.4f}"
                parts.append(f"{_SHOWN[name]} {shown}")
            elif "/" in name:
                parts.append(f"{name} {value:.3f}")
        done = state.global_step - self.first_step
        left = (state.max_steps - state.global_step) * (self.last - self.started) / max(1, done)
        return "  ".join([*parts, f"{speed:.0f} tokens/s", f"{_duration(left)} left"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plot()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plot()

    def plot(self) -> None:
        """Draw the losses of metrics.jsonl as losses.png."""
        if self.log.is_main and (self.folder / METRICS).is_file():
            plot(self.folder / METRICS, self.folder / "losses.png")


class Complete(TrainerCallback):
    """Marks checkpoints as whole when all processes have written their parts."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()
        if args.should_save:
            step = state.global_step
            checkpoints.mark_complete(self.folder / f"checkpoint-{step}", step)
            checkpoints.remove_old(self.folder, self.keep)


class Samples(TrainerCallback):
    """Asks the questions of some rows the way a user does, and keeps the answers in samples.md.

    Args:
        rows: conversations or preferences; their first question is asked.
        every: steps between samples; 0: with every checkpoint.
        settings: of the answers, for `Chat.ask`.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        processor: Any,
        rows: Sequence[Conversation | Preference],
        *,
        every: int,
        settings: dict[str, Any],
    ) -> None:
        self.path = folder / "samples.md"
        self.model = model
        self.processor = processor
        self.rows = rows
        self.every = every
        self.settings = settings
        self.written: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.path.unlink(missing_ok=True)
            self.write(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every and state.global_step % self.every == 0:
            self.write(args, state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.every:
            self.write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(args, state)

    @torch.no_grad()
    def write(self, args: Any, state: Any) -> None:
        """Ask now. Nothing of the training changes: no random number is drawn."""
        if not args.should_save or self.written == state.global_step:
            return
        self.written = state.global_step
        lines = [f"## After step {state.global_step}", ""]
        was_training = self.model.training
        self.model.eval()
        with plain_attention(self.model), torch.random.fork_rng(), one_dtype(self.model):
            chat = Chat(self.model, self.processor)
            for row in self.rows:
                messages, wanted = _first_question(row)
                answer = chat.ask(chat_messages(messages), sampling=False, **self.settings)
                asked = messages[-1].text.strip()
                lines += [
                    f"- row {row.row}: {asked!r}",
                    f"    - {answer.text!r}",
                    f"    - wanted: {wanted!r}",
                ]
        self.model.train(was_training)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n".join([*lines, "", ""]))


@contextmanager
def one_dtype(model: Any) -> Iterator[None]:
    """Inside, what is trained in float32 has the dtype of what is frozen, as an engine needs it."""
    frozen = [p.dtype for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    dtype = next((d for d in frozen if d in (torch.bfloat16, torch.float16)), None)
    kept: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    if dtype is not None:
        kept = [(p, p.data) for p in model.parameters() if p.requires_grad]
    try:
        for parameter, data in kept:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def _first_question(row: Conversation | Preference) -> tuple[Sequence[Any], str]:
    """The messages up to the first answer, and that answer."""
    if isinstance(row, Preference):
        return row.prompt, row.chosen
    place = next(i for i, m in enumerate(row.messages) if m.role == "assistant")
    return row.messages[:place], row.messages[place].text


def _cut_metrics(path: Path, step: int) -> None:
    """Forget what was measured after the checkpoint that a run goes on from."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step and step:
                kept.append(line + "\n")
        except ValueError:  # cut by a kill
            break
    path.write_text("".join(kept), encoding="utf-8")


def plot(metrics: Path, image: Path) -> None:
    """Draw the losses in a metrics file over the steps, as a PNG."""
    from matplotlib.figure import Figure

    records = [json.loads(text) for text in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, label, style in (("loss", "training", "-"), ("eval_loss", "evaluation", "o-")):
        points = [(r["step"], r[name]) for r in records if name in r]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss (nats per trained token)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(image, dpi=110)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


__all__ = ["Complete", "Log", "Progress", "Samples", "plot"]
