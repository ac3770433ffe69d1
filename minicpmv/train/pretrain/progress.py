"""What a run says of itself: averages, one progress line, the curve of the losses, samples."""

import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from minicpmv.scenes.text.labels import TARGETS
from minicpmv.train.pretrain.dataloader import Batch
from minicpmv.train.pretrain.network import Losses

_SHOWN_TARGETS = ("thing", "colour", "centre", "left glyph")
_PLOTTED = ("dense", "language")


class Meter:
    """Averages since the last report."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.language: list[float] = []
        self.dense: list[float] = []
        self.dense_right: list[np.ndarray] = []
        self.norms: list[float] = []
        self.num_slices = 0
        self.right: dict[str, list[bool]] = defaultdict(list)
        self.start = time.perf_counter()

    def add(self, batch: Batch, losses: Losses, norm: float, with_language: bool) -> None:
        """Count one step. An answer is right when every one of its tokens is the likeliest given
        the true ones before, which is when greedy decoding gives it.
        """
        self.dense.append(float(losses.dense.detach()))
        self.dense_right.append(losses.dense_right.detach().float().cpu().numpy())
        self.norms.append(norm)
        self.num_slices += len(batch.patches)
        if not with_language:
            return
        self.language.append(float(losses.language.detach()))
        learned = batch.answer_runs > 0
        hits = losses.predicted.cpu().numpy() == batch.answer_labels
        runs, first = np.unique(batch.answer_runs[learned], return_index=True)
        wrong = np.bincount(batch.answer_runs[learned], ~hits[learned])
        for run, task in zip(runs, batch.answer_tasks[learned][first], strict=True):
            self.right[batch.task_names[task]].append(not wrong[run])

    def accuracies(self) -> dict[str, float]:
        """Share of right answers by task."""
        return {task: float(np.mean(right)) for task, right in sorted(self.right.items())}

    def record(self) -> dict[str, float | dict[str, float]]:
        """The averages as they go into metrics.jsonl."""
        right = np.mean(self.dense_right, axis=0)
        record: dict[str, float | dict[str, float]] = {
            "dense": float(np.mean(self.dense)),
            "norm": float(np.mean(self.norms)),
            "targets": {
                name: round(float(share), 4) for name, share in zip(TARGETS, right, strict=True)
            },
        }
        if self.language:
            record["language"] = float(np.mean(self.language))
            record["tasks"] = {k: round(v, 4) for k, v in self.accuracies().items()}
        return record

    def slices_per_second(self) -> float:
        return self.num_slices / (time.perf_counter() - self.start)


def line(record: dict) -> str:
    """A record as one line for people."""
    targets = " ".join(f"{name} {record['targets'][name]:.0%}" for name in _SHOWN_TARGETS)
    text = f"dense {record['dense']:.3f} ({targets})"
    if "language" in record:
        tasks = " ".join(f"{task} {share:.0%}" for task, share in record["tasks"].items())
        text += f" language {record['language']:.3f} ({tasks})"
    return text


def plot(metrics: Path, image: Path) -> None:
    """Draw the losses in a metrics file over the pictures seen, as a PNG."""
    from matplotlib.figure import Figure

    records = [json.loads(text) for text in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for name in _PLOTTED:
        for kind, style in (("train", "-"), ("held out", "o")):
            points = [(r["slices"], r[name]) for r in records if r["kind"] == kind and name in r]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=f"{name}, {kind}", markersize=3)
    for stage in dict.fromkeys(r["stage"] for r in records):
        start = min(r["slices"] for r in records if r["stage"] == stage)
        axes.axvline(start, color="grey", linewidth=0.5)
        axes.annotate(stage, (start, 1), xycoords=("data", "axes fraction"), va="bottom")
    axes.set(xlabel="slices seen", ylabel="loss (nats)", yscale="log")
    axes.legend()
    figure.savefig(image, dpi=110)
