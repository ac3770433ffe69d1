"""Training batches by number: what batch n of a stage holds depends on n alone.

Rendering runs in processes of its own, ahead of training; what they hand over are plain arrays. As
a batch is a function of its number, a run that was interrupted goes on with the very batches that
it would have seen.
"""

import multiprocessing
import os
import queue
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from minicpmv.processing.batching import default_frame_slices
from minicpmv.processing.pixels import cut
from minicpmv.processing.slicing import SlicePlan, plan_slices
from minicpmv.scenes import EXAMPLE_KINDS, Scene, draw_example, patch_labels, questions_of, render
from minicpmv.scenes.text.labels import NO_LABEL, NUM_TARGETS, WHOLE
from minicpmv.train.pretrain.dialogue import IGNORED, DialogueWriter, TokenSequence
from minicpmv.train.pretrain.letters import LETTERS, letter_crops
from minicpmv.train.pretrain.patches import to_patches

QUEUE_LENGTH = 24  # batches rendered ahead: 5 MB each at 32 slices
PADDING = -1  # the number of what is no sequence
MAX_MISFITS = 12  # scenes in a row that find no room: then the batch is full


@dataclass(frozen=True)
class FeedOptions:
    """What a batch looks like. All sizes are fixed, so that nothing recompiles.

    `mix` says how often each kind is drawn: kinds of scenes, kinds of examples, and LETTERS for
    crops full of print, which carry dense targets alone. Without `with_text` all do.
    """

    tokenizer_file: str
    mix: dict[str, float]
    slices: int = 32
    rows: int = 32
    length: int = 208
    answers: int = 1024  # learned tokens per batch; further ones are not learned
    max_slices: int = 1  # per picture
    max_questions: int = 8  # per picture
    tasks: tuple[str, ...] = ()  # what is asked; nothing here stands for everything
    num_queries: int = 64
    scale_resolution: int = 224
    patch_size: int = 14
    seed: int = 0
    split: str = "train"
    with_text: bool = True

    @property
    def max_patches(self) -> int:
        """Patches of a slice: its sides are rounded to whole ones, so a square has not the most. A
        few long shapes come to more, up to 297: pictures that make them are left out.
        """
        side = self.scale_resolution // self.patch_size
        return side * (side + 1)


class Batch(NamedTuple):
    """Plain arrays of one batch, padded to fixed shapes."""

    patches: np.ndarray  # (slices, max_patches, 3 * patch_size**2) uint8, channel by channel
    target_sizes: np.ndarray  # (slices, 2) int64: rows and columns of patches
    targets: np.ndarray  # (slices, NUM_TARGETS, max_patches) uint8, NO_LABEL beyond the picture
    slots: np.ndarray  # (slices,) int64: first placeholder in the flattened sequences, -1 for none
    input_ids: np.ndarray  # (rows, length) int64
    position_ids: np.ndarray  # (rows, length) int64
    sequences: np.ndarray  # (rows, length) int64: which sequence of its row, PADDING for none
    groups: np.ndarray  # (rows, length) int64, see `TokenSequence`
    sees_picture: np.ndarray  # (rows, length) int64
    answer_places: np.ndarray  # (answers,) int64 in the flattened sequences
    answer_labels: np.ndarray  # (answers,) int64, IGNORED where there is none
    answer_tasks: np.ndarray  # (answers,) int64: index into `task_names`
    answer_runs: np.ndarray  # (answers,) int64: which answer of the batch, from 1; 0 for none
    answer_weights: np.ndarray  # (answers,) float32: length of the answer to the power -1/2
    task_names: tuple[str, ...]


class Slice(NamedTuple):
    """One slice of a picture as the tower takes it."""

    patches: np.ndarray  # (num_patches, 3 * patch_size**2) uint8
    size: tuple[int, int]  # rows and columns of patches
    targets: np.ndarray  # (NUM_TARGETS, num_patches) uint8


def plan(image: Image.Image, options: FeedOptions, max_slices: int) -> SlicePlan:
    """How the processor cuts a picture."""
    return plan_slices(
        image.height,
        image.width,
        max_slices=max_slices,
        scale_resolution=options.scale_resolution,
        patch_size=options.patch_size,
    )


def slices_of(scene: Scene, cuts: SlicePlan, patch_size: int) -> list[Slice]:
    """The slices of a scene, in the order of the processor."""
    boxes = [WHOLE]
    if cuts.grid is not None:
        rows, cols = cuts.grid
        boxes += [
            (row / rows, col / cols, (row + 1) / rows, (col + 1) / cols)
            for row in range(rows)
            for col in range(cols)
        ]
    sizes = cuts.target_sizes(patch_size)
    return [
        Slice(to_patches(np.asarray(image), patch_size), size, patch_labels(scene, *size, box))
        for image, size, box in zip(cut(scene.image, cuts), sizes, boxes, strict=True)
    ]


class Packer:
    """A batch being filled: slices side by side, sequences wherever a row has room."""

    def __init__(self, options: FeedOptions) -> None:
        self.options = options
        self.slices: list[Slice] = []
        self.slots: list[int] = []
        self.rows: list[list[TokenSequence]] = [[] for _ in range(options.rows)]
        self.used = [0] * options.rows

    @property
    def num_free_slices(self) -> int:
        return self.options.slices - len(self.slices)

    def add_slices(self, slices: list[Slice]) -> None:
        """Add slices without a text."""
        self.slices += slices
        self.slots += [-1] * len(slices)

    def room(self, length: int) -> int | None:
        """The first row with room for `length` tokens."""
        for row, used in enumerate(self.used):
            if used + length <= self.options.length:
                return row
        return None

    def add(self, slices: list[Slice], sequence: TokenSequence) -> None:
        """Add a sequence that has room."""
        row = self.room(len(sequence))
        assert row is not None
        assert len(slices) == len(sequence.slices)
        start = row * self.options.length + self.used[row]
        self.slices += slices
        self.slots += [start + place for place in sequence.slices]
        self.rows[row].append(sequence)
        self.used[row] += len(sequence)

    def finish(self) -> Batch:
        options = self.options
        count = options.slices
        patches = np.zeros((count, options.max_patches, 3 * options.patch_size**2), dtype=np.uint8)
        sizes = np.ones((count, 2), dtype=np.int64)
        targets = np.full((count, NUM_TARGETS, options.max_patches), NO_LABEL, dtype=np.uint8)
        slots = np.full(count, -1, dtype=np.int64)
        slots[: len(self.slots)] = self.slots
        for i, piece in enumerate(self.slices):
            patches[i, : len(piece.patches)] = piece.patches
            sizes[i] = piece.size
            targets[i, :, : len(piece.patches)] = piece.targets
        shape = (options.rows, options.length)
        fields = {
            name: np.zeros(shape, dtype=np.int64)
            for name in ("input_ids", "position_ids", "groups", "sees_picture")
        }
        sequences = np.full(shape, PADDING, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        tasks: dict[str, int] = {"": 0}
        task_ids = np.zeros(shape, dtype=np.int64)
        for row, members in enumerate(self.rows):
            start = 0
            for number, sequence in enumerate(members):
                area = row, slice(start, start + len(sequence))
                for name, values in fields.items():
                    values[area] = getattr(sequence, name)
                sequences[area] = number
                labels[area] = sequence.labels
                task_ids[area] = [tasks.setdefault(task, len(tasks)) for task in sequence.tasks]
                start += len(sequence)
        found = np.flatnonzero(labels.ravel() != IGNORED)
        # An answer is a run of neighbouring places.
        runs = np.cumsum(np.diff(found, prepend=-2) > 1)[: options.answers]
        found = found[: options.answers]
        padded: dict[str, tuple[np.ndarray, int]] = {
            "answer_places": (found, 0),
            "answer_labels": (labels.ravel()[found], IGNORED),
            "answer_tasks": (task_ids.ravel()[found], 0),
            "answer_runs": (runs, 0),
        }
        answers: dict[str, np.ndarray] = {}
        for name, (values, filler) in padded.items():
            answers[name] = np.full(options.answers, filler, dtype=np.int64)
            answers[name][: len(values)] = values
        # A page of print must not drown a hundred answers of one word (square averaging, InternVL
        # 2.5, arXiv 2412.05271, section 3.3).
        weights = np.zeros(options.answers, dtype=np.float32)
        weights[: len(runs)] = np.bincount(runs)[runs] ** -0.5
        return Batch(
            patches,
            sizes,
            targets,
            slots,
            sequences=sequences,
            task_names=tuple(tasks),
            answer_weights=weights,
            **fields,
            **answers,
        )


def make_batch(number: int, options: FeedOptions, writer: DialogueWriter) -> Batch:
    """Draw and write batch `number`."""
    rng = random.Random(f"batch:{options.split}:{options.seed}:{number}")
    packer = Packer(options)
    kinds, weights = list(options.mix), list(options.mix.values())
    misfits = 0
    while packer.num_free_slices and (misfits < MAX_MISFITS or not packer.slices):
        if misfits == 1000:
            raise ValueError(
                f"None of a thousand scenes of {', '.join(kinds)} fits "
                f"into {options.slices} slices and {options.rows} rows of {options.length} tokens: "
                "the batch needs to be larger."
            )
        kind = rng.choices(kinds, weights)[0]
        seed = rng.getrandbits(48)
        if kind == LETTERS:
            crops = letter_crops(seed, options.scale_resolution, options.patch_size)
            packer.add_slices([Slice(*crop) for crop in crops[: packer.num_free_slices]])
        elif not _add(packer, kind, seed, options, writer):
            misfits += 1
            continue
        misfits = 0
    return packer.finish()


def _add(
    packer: Packer, kind: str, seed: int, options: FeedOptions, writer: DialogueWriter
) -> bool:
    """Draw one scene or example and pack it; False where it has no room."""
    rng = random.Random(f"dialogue:{options.split}:{seed}")
    if kind in EXAMPLE_KINDS:
        example = draw_example(seed, options.split, kind)
        scenes = list(example.scenes)
        most = options.max_slices
        if example.is_video:
            most = default_frame_slices(len(scenes), most)
        plans = [plan(scene.image, options, most) for scene in scenes]
    else:
        scenes = [render(seed, options.split, kind=kind)]
        plans = [plan(scenes[0].image, options, options.max_slices)]
    sizes = [size for cuts in plans for size in cuts.target_sizes(options.patch_size)]
    if max(rows * cols for rows, cols in sizes) > options.max_patches:
        return False
    if len(sizes) > packer.num_free_slices:
        return False
    slices = [
        piece
        for scene, cuts in zip(scenes, plans, strict=True)
        for piece in slices_of(scene, cuts, options.patch_size)
    ]
    if not options.with_text:
        packer.add_slices(slices)
        return True
    grids = [cuts.grid for cuts in plans]
    if kind in EXAMPLE_KINDS:
        sequence = writer.example(example, grids, rng)
    else:
        asked = questions_of(scenes[0], options.max_questions, rng, options.tasks)
        free = max(options.length - used for used in packer.used)
        sequence = writer.questions(asked, grids[0], rng, free)
    if packer.room(len(sequence)) is None:
        return False
    packer.add(slices, sequence)
    return True


def _serve(options: FeedOptions, first: int, stride: int, cores: tuple[int, ...], out) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if hasattr(os, "nice"):
        os.nice(5)
    writer = DialogueWriter(Tokenizer.from_file(options.tokenizer_file), options.num_queries)
    parent = os.getppid()
    number = first
    while True:
        batch = make_batch(number, options, writer)
        while True:
            try:
                out.put(batch, timeout=10)
                break
            except queue.Full:
                if os.getppid() != parent:  # the training was killed: nobody reads any more
                    out.cancel_join_thread()
                    return
        number += stride


def batches(
    options: FeedOptions,
    first: int,
    *,
    stride: int = 1,
    workers: int = 1,
    cores: tuple[int, ...] = (),
) -> Iterator[Batch]:
    """Batches `first`, `first` + `stride` and so on, without end, rendered ahead by `workers`
    processes.

    Args:
        workers: 0 renders in this process.
        cores: processor cores for the workers where the system can bind them; empty leaves the
            choice to it.

    Raises:
        RuntimeError: a worker has ended.
    """
    if workers == 0:
        tokenizer = Tokenizer.from_file(options.tokenizer_file)
        writer = DialogueWriter(tokenizer, options.num_queries)
        while True:
            yield make_batch(first, options, writer)
            first += stride
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(maxsize=max(2, QUEUE_LENGTH // workers)) for _ in range(workers)]
    processes = [
        context.Process(
            target=_serve,
            args=(options, first + i * stride, workers * stride, cores, queues[i]),
            daemon=True,
        )
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        turn = 0
        while True:
            try:
                batch = queues[turn].get(timeout=120)
            except queue.Empty:
                code = processes[turn].exitcode
                raise RuntimeError(
                    f"Render process {turn} of {workers} has given nothing for 120 s "
                    f"(exit code {code})."
                ) from None
            yield batch
            turn = (turn + 1) % workers
    finally:
        for process in processes:
            process.terminate()
