"""Asks a model, batch by batch, and keeps every answer in a file, from which an interrupted run
goes on.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from minicpmv.appending import Appended
from minicpmv.chat import Chat
from minicpmv.evaluate.scenes.measures import Result, Scorer
from minicpmv.evaluate.scenes.samples import Sample
from minicpmv.scenes import Example

GREY = (128, 128, 128)
_Key = tuple[str, int, int]  # part, seed of the scene, number of the example in its item


def conversation(example: Example) -> list[dict[str, Any]]:
    """The messages that put the example's last question; earlier turns come with their answers."""
    messages: list[dict[str, Any]] = []
    for turn in example.turns:
        pictures = [example.scenes[number].image for number in turn.shown]
        blocks: list[dict[str, Any]] = [{"type": "image", "image": each} for each in pictures]
        if example.is_video and pictures:
            blocks = [{"type": "video", "video": pictures}]
        blocks.append({"type": "text", "text": turn.question})
        messages.append({"role": "user", "content": blocks})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages[:-1]


def with_grey_pictures(items: Sequence[Sample]) -> list[Sample]:
    """The items with every picture grey, in its own size: what is still right is guessing."""

    def grey(example: Example) -> Example:
        images = [Image.new("RGB", scene.image.size, GREY) for scene in example.scenes]
        return _with_pictures(example, images)

    return [replace(item, examples=tuple(map(grey, item.examples))) for item in items]


def with_swapped_pictures(items: Sequence[Sample]) -> list[Sample]:
    """The items with the pictures of the next one, over and over where it has fewer."""
    swapped = []
    for item, other in zip(items, [*items[1:], items[0]], strict=True):
        images = [scene.image for scene in other.examples[0].scenes]
        examples = tuple(
            _with_pictures(example, [images[i % len(images)] for i in range(len(example.scenes))])
            for example in item.examples
        )
        swapped.append(replace(item, examples=examples))
    return swapped


def _with_pictures(example: Example, images: Sequence[Image.Image]) -> Example:
    scenes = (
        replace(scene, image=image) for scene, image in zip(example.scenes, images, strict=True)
    )
    return replace(example, scenes=tuple(scenes))


def fingerprint(model: torch.nn.Module) -> str:
    """Eight characters that change with the weights: of every parameter a few numbers are read."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        few = tensor.detach().flatten()[:: max(1, tensor.numel() // 16)]
        digest.update(few.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:8]


class AnswerFile(Appended):
    """One JSON line per answer, written as it comes. Answers that the file already has are not
    asked for again; `path=None` keeps nothing.

    Args:
        path: the file; made when it is not there.
        settings: what must be the same for answers to belong to one run; a field of every line.

    Raises:
        ValueError: the file holds answers of other settings, or lines of another kind.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self._path = path
        self._lines: dict[_Key, dict[str, Any]] = {}
        super().__init__(path)

    def _begin(self) -> None:
        whole = self._whole_lines("answers of an evaluation")
        for number, text in enumerate(whole, start=1):
            try:
                line = json.loads(text)
                found = {name: line[name] for name in self.settings}
                key = line["part"], line["seed"], line["example"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self._path}, line {number} is no answer of this evaluation ({error!r}). "
                    "Give another file."
                ) from None
            for name, expected in self.settings.items():
                if found[name] != expected:
                    raise ValueError(
                        f"{self._path} holds answers with {name} {found[name]!r}, and this run has "
                        f"{expected!r}. Give another file, or remove this one."
                    )
            self._lines[key] = line

    def answer(self, key: _Key, question: str) -> str | None:
        """The answer that the file has to an example, if any.

        Raises:
            ValueError: what was asked then is not what is asked now.
        """
        line = self._lines.get(key)
        if line is None:
            return None
        if line["question"] != question:
            raise ValueError(
                f"{self._path} has an answer to {line['question']!r} where {question!r} is asked: "
                "the scenes have changed since. Give another file."
            )
        return str(line["answer"])

    def add(self, key: _Key, **fields: Any) -> None:
        """Append one answer."""
        part, seed, example = key
        line = {"part": part, "seed": seed, "example": example, **fields, **self.settings}
        self._lines[key] = line
        self._append(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def ask_samples(
    chat: Chat,
    items: Sequence[Sample],
    shown: Sequence[Sample],
    *,
    part: str,
    scorer: Scorer,
    max_new_tokens: int,
    batch_size: int,
    file: AnswerFile,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Greedy answers to all items, with their scores.

    Args:
        items: what is true; shown: the same items, with the pictures that the model gets to see.
        part: the name under which `file` keeps the answers.
        on_progress: called with the number of answers so far and of all.
    """
    answers: dict[_Key, str] = {}
    scored: dict[_Key, float] = {}
    waiting: list[tuple[_Key, Sample, int]] = []
    for position, item in enumerate(items):
        for number, example in enumerate(item.examples):
            key = part, item.seed, number
            known = file.answer(key, example.turns[-1].question)
            if known is None:
                waiting.append((key, item, position))
            else:
                answers[key] = known
                scored[key] = scorer(example, known)
    total = len(answers) + len(waiting)
    for start in range(0, len(waiting), batch_size):
        batch = waiting[start : start + batch_size]
        replies = chat.batch(
            [conversation(shown[position].examples[key[2]]) for key, _, position in batch],
            batch_size=batch_size,
            sampling=False,
            num_beams=1,
            repetition_penalty=1.0,
            max_new_tokens=max_new_tokens,
        )
        for (key, item, _), reply in zip(batch, replies, strict=True):
            example = item.examples[key[2]]
            answers[key] = reply.text
            scored[key] = scorer(example, reply.text)
            file.add(
                key,
                item=item.number,
                task=example.turns[-1].task,
                question=example.turns[-1].question,
                truth=example.turns[-1].answer,
                answer=reply.text,
                score=round(scored[key], 4),
            )
        on_progress(len(answers), total)
    results = []
    for item in items:
        keys = [(part, item.seed, number) for number in range(len(item.examples))]
        texts = tuple(answers[key] for key in keys)
        results.append(Result(item, texts, tuple(scored[key] for key in keys)))
    return results
