"""Examples to a calibration: decide them, fit one part, and measure on the other."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..appending import Appended
from ..errors import ArgumentError
from .calibration import Calibration, Quality, fingerprint_of
from .decision import Decision
from .examples import Labelled
from .fit import Bin, Fit, NoMaximumError, accuracy, calibrated, ece, fit, nll, reliability

if TYPE_CHECKING:
    from ..chat import Chat

MIN_EXAMPLES = 20  # in each part
_CHUNK = 64  # examples that are decided together

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """A calibration, and the examples that were held out by their confidence."""

    calibration: Calibration
    before: list[Bin]
    after: list[Bin]


def decide_examples(
    chat: "Chat",
    examples: Sequence[Labelled],
    *,
    file: Path | None = None,
    on_progress: OnProgress = lambda done, total: None,
    **options: Any,
) -> list[dict[str, float]]:
    """Log-probabilities of the labels of each example.

    Args:
        file: a line of JSON for each example, written as they are decided; what is there already is
            not decided again.
        options: processing options of `Chat.decide`.

    Raises:
        OSError, ValueError: a picture or a choice is wrong; the message names the example.
    """
    with _Known(file, chat, options) as known:
        found = [known.get(example) for example in examples]
        left = [number for number, each in enumerate(found) if each is None]
        done = len(examples) - len(left)
        on_progress(done, len(examples))
        for start in range(0, len(left), _CHUNK):
            chunk = left[start : start + _CHUNK]
            some = [examples[number] for number in chunk]
            for number, example, decision in zip(
                chunk, some, _decided(chat, some, options), strict=True
            ):
                found[number] = dict(decision.logprobs)
                known.add(example, decision)
            done += len(chunk)
            on_progress(done, len(examples))
    return [each for each in found if each is not None]


def _decided(chat: "Chat", examples: Sequence[Labelled], options: dict[str, Any]) -> list[Decision]:
    try:
        return chat.decide_batch([_request(each) for each in examples], **options)
    except (ValueError, OSError, RuntimeError):
        for each in examples:  # which of them is to blame?
            try:
                chat.decide_batch([_request(each)], **options)
            except (ValueError, OSError, RuntimeError) as error:
                raise ValueError(f"{each.where}: {error}") from error
        raise


def _request(example: Labelled) -> Any:
    return example.question, example.images, example.videos


def calibrate(
    model: Any,
    name: str,
    examples: Sequence[Labelled],
    logprobs: Sequence[dict[str, float]],
    *,
    with_bias: bool = False,
    held_out: float = 0.5,
    seed: int = 0,
) -> Report:
    """Fit a calibration.

    Args:
        logprobs: from `decide_examples`.
        with_bias: fits a bias for each choice, too; all examples must have the same choices.
        held_out: share of the examples that are not used for the fit, and tell what it is worth.
        seed: of the choice of these; examples of one group stay together.

    Raises:
        ArgumentError: `held_out` is out of range, or choices differ where there are biases.
        ValueError: the examples are too few, or determine no calibration.
    """
    fitted, tested = divide(examples, with_bias=with_bias, held_out=held_out, seed=seed)
    labels = examples[0].question.labels
    rows = [list(each.values()) for each in logprobs]
    if with_bias:  # in one order
        rows = [[each[label] for label in labels] for each in logprobs]
    answers = [
        (labels if with_bias else list(each)).index(example.answer)
        for each, example in zip(logprobs, examples, strict=True)
    ]
    try:
        found = fit([rows[i] for i in fitted], [answers[i] for i in fitted], with_bias=with_bias)
    except NoMaximumError as error:
        raise ValueError(
            f"These {len(fitted)} examples determine no calibration: {error}."
        ) from None
    right = [answers[i] for i in tested]
    raw = [calibrated(rows[i], Fit(1.0)) for i in tested]
    new = [calibrated(rows[i], found) for i in tested]
    before, after = reliability(raw, right), reliability(new, right)
    question = examples[0].question
    result = Calibration(
        model=name,
        fingerprint=fingerprint_of(model),
        temperature=found.temperature,
        bias=dict(zip(labels, found.bias, strict=True)) if with_bias else None,
        list_choices=question.list_choices,
        average_orders=question.average_orders,
        num_fitted=len(fitted),
        num_held_out=len(tested),
        before=Quality(ece(before), nll(raw, right), accuracy(raw, right)),
        after=Quality(ece(after), nll(new, right), accuracy(new, right)),
    )
    return Report(result, before, after)


def divide(
    examples: Sequence[Labelled],
    *,
    with_bias: bool = False,
    held_out: float = 0.5,
    seed: int = 0,
) -> tuple[list[int], list[int]]:
    """Numbers of the examples to fit, and of those that are held out; needs no model.

    Args:
        with_bias, held_out, seed: as of `calibrate`.

    Raises:
        ArgumentError, ValueError: as of `calibrate`, but for what only decisions show.
    """
    if not 0 < held_out < 1:
        raise ArgumentError(f"`held_out` is {held_out}; it must be above 0 and below 1.")
    if len(examples) < 2 * MIN_EXAMPLES:
        raise ValueError(
            f"There are {len(examples)} examples; at least {2 * MIN_EXAMPLES} are needed, half of "
            "them to tell whether the calibration helps."
        )
    if with_bias:
        _check_alike(examples)
    fitted, tested = _parts(examples, held_out, seed)
    if with_bias:
        _check_all_come([examples[i] for i in fitted], examples[0].question.labels)
    return fitted, tested


def _check_alike(examples: Sequence[Labelled]) -> None:
    labels = set(examples[0].question.labels)
    for each in examples:
        if set(each.question.labels) != labels:
            raise ArgumentError(
                f"`bias` needs the same choices in all examples; {examples[0].where} has "
                f"{len(labels)} and {each.where} others. Leave it out, or calibrate them apart."
            )


def _check_all_come(examples: Sequence[Labelled], labels: Sequence[str]) -> None:
    missing = sorted(set(labels) - {each.answer for each in examples})
    if missing:
        raise ValueError(
            f"{missing[0]!r} is the answer of none of the {len(examples)} examples to fit, so that "
            "its bias would have no limit. Add examples of it, or fit no biases."
        )


def _parts(examples: Sequence[Labelled], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the examples to fit, and of those that are held out, whole groups of them."""
    groups: dict[str, list[int]] = {}
    for number, each in enumerate(examples):
        groups.setdefault(each.group or str(number), []).append(number)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    fitted: list[int] = []
    tested: list[int] = []
    for name in names:
        (tested if len(tested) < held_out * len(examples) else fitted).extend(groups[name])
    if min(len(fitted), len(tested)) < MIN_EXAMPLES:
        raise ValueError(
            f"{len(fitted)} examples are left to fit and {len(tested)} to measure; at least "
            f"{MIN_EXAMPLES} are needed in each. Add examples with other pictures."
        )
    return sorted(fitted), sorted(tested)


class _Known(Appended):
    """What was decided in an earlier run, and is written in this one."""

    def __init__(self, path: Path | None, chat: "Chat", options: dict[str, Any]):
        self._path = path
        self._run = {
            "weights": fingerprint_of(chat.model),
            "options": repr(sorted(options.items())),
        }
        self._lines: dict[str, dict[str, float]] = {}
        super().__init__(path)

    def _begin(self) -> None:
        for number, line in enumerate(self._whole_lines("decisions"), 1):
            try:
                value = json.loads(line)
                key, logprobs, run = value["key"], dict(value["logprobs"]), value["run"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self._path}, line {number} is no decision. Name another file, or remove the "
                    "line."
                ) from None
            if run != self._run:
                raise ValueError(
                    f"{self._path} has decisions of another model or other options. Name another "
                    "file."
                )
            self._lines[key] = logprobs

    def get(self, example: Labelled) -> dict[str, float] | None:
        return self._lines.get(self._key(example))

    def add(self, example: Labelled, decision: Decision) -> None:
        line = {"key": self._key(example), "logprobs": dict(decision.logprobs), "run": self._run}
        self._append(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    @staticmethod
    def _key(example: Labelled) -> str:
        question = example.question
        return f"{example.key} {question.list_choices} {question.average_orders}"
