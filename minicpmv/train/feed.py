"""Training batches by number: batch n holds the scenes n * batch_size and following, always the
same.

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

from minicpmv.processing.slicing import best_resize
from minicpmv.scenes import Scene, patch_labels, render
from minicpmv.scenes.labels import CELLS, NO_LABEL
from minicpmv.train.dialogue import Dialogue, DialogueWriter

NUM_TARGETS = 4 + CELLS**2 + 2  # rows of `PatchLabels`, stacked
QUEUE_LENGTH = 40  # batches rendered ahead: 5 MB each at 32 pictures


@dataclass(frozen=True)
class FeedOptions:
    """What a batch looks like. `max_patches` and `length` are fixed, so that nothing recompiles."""

    tokenizer_file: str
    batch_size: int = 32
    num_queries: int = 64
    scale_resolution: int = 224
    patch_size: int = 14
    length: int = 192
    seed: int = 0
    split: str = "train"

    @property
    def max_patches(self) -> int:
        return (self.scale_resolution // self.patch_size) ** 2


class Batch(NamedTuple):
    """Plain arrays of one batch, padded to fixed shapes."""

    patches: np.ndarray  # (batch, max_patches, 3 * patch_size**2) uint8, channel by channel
    target_sizes: np.ndarray  # (batch, 2) int64: rows and columns of patches
    targets: np.ndarray  # (batch, NUM_TARGETS, max_patches) uint8, NO_LABEL beyond the picture
    dialogue: Dialogue  # each field (batch, seq)


def fit(image: Image.Image, options: FeedOptions) -> Image.Image:
    """Resize a picture as the processor does for a single slice."""
    height, width = best_resize(
        image.height, image.width, options.scale_resolution, options.patch_size, upscale=True
    )
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def to_patches(image: Image.Image, patch_size: int) -> np.ndarray:
    """(num_patches, channels * patch_size**2) uint8: each row one patch as the convolution sees
    it.
    """
    pixels = np.asarray(image)  # (height, width, 3)
    rows, cols = pixels.shape[0] // patch_size, pixels.shape[1] // patch_size
    pixels = pixels.reshape(rows, patch_size, cols, patch_size, 3)
    return pixels.transpose(0, 2, 4, 1, 3).reshape(rows * cols, -1)


def _fitting_scene(seed: int, options: FeedOptions) -> tuple[Scene, Image.Image]:
    """The scene of a seed; drawn square where rounding its shape would give more patches than the
    batch has.
    """
    scene = render(seed, options.split)
    image = fit(scene.image, options)
    if image.width * image.height > options.max_patches * options.patch_size**2:
        scene = render(
            seed, options.split, size=(options.scale_resolution, options.scale_resolution)
        )
        image = fit(scene.image, options)
    return scene, image


def make_batch(number: int, options: FeedOptions, writer: DialogueWriter) -> Batch:
    """Draw and write batch `number`."""
    size, patch = options.batch_size, options.patch_size
    patches = np.zeros((size, options.max_patches, 3 * patch**2), dtype=np.uint8)
    target_sizes = np.zeros((size, 2), dtype=np.int64)
    targets = np.full((size, NUM_TARGETS, options.max_patches), NO_LABEL, dtype=np.uint8)
    dialogues = []
    for row in range(size):
        seed = number * size + row
        scene, image = _fitting_scene(options.seed + seed, options)
        rows, cols = image.height // patch, image.width // patch
        patches[row, : rows * cols] = to_patches(image, patch)
        target_sizes[row] = rows, cols
        targets[row, :, : rows * cols] = np.vstack(patch_labels(scene, rows, cols))
        dialogues.append(writer.write(scene, random.Random(f"dialogue:{options.seed + seed}")))
    fields = (np.stack(field) for field in zip(*dialogues, strict=True))
    return Batch(patches, target_sizes, targets, Dialogue(*fields))


def _serve(options: FeedOptions, first: int, stride: int, cores: tuple[int, ...], out) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if hasattr(os, "nice"):
        os.nice(5)
    writer = DialogueWriter(
        Tokenizer.from_file(options.tokenizer_file), options.num_queries, options.length
    )
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
    options: FeedOptions, first: int, *, workers: int = 1, cores: tuple[int, ...] = ()
) -> Iterator[Batch]:
    """Batches `first`, `first` + 1 and so on, without end, rendered ahead by `workers` processes.

    Args:
        workers: 0 renders in this process.
        cores: processor cores for the workers where the system can bind them; empty leaves the
            choice to it.

    Raises:
        RuntimeError: a worker has ended.
    """
    if workers == 0:
        tokenizer = Tokenizer.from_file(options.tokenizer_file)
        writer = DialogueWriter(tokenizer, options.num_queries, options.length)
        while True:
            yield make_batch(first, options, writer)
            first += 1
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(maxsize=QUEUE_LENGTH) for _ in range(workers)]
    processes = [
        context.Process(
            target=_serve, args=(options, first + i, workers, cores, queues[i]), daemon=True
        )
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        turn = 0
        while True:
            try:
                batch = queues[turn].get(timeout=60)
            except queue.Empty:
                code = processes[turn].exitcode
                raise RuntimeError(
                    f"Render process {turn} of {workers} has given nothing for 60 s "
                    f"(exit code {code})."
                ) from None
            yield batch
            turn = (turn + 1) % workers
    finally:
        for process in processes:
            process.terminate()
