"""How well a model answers about rendered scenes.

Every task asks one question about each of a number of held-out scenes that admit it, and decodes
greedily. With `--blind` the pictures are replaced by a plain grey one: what is then still right is
guessing.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from minicpmv.chat import Chat
from minicpmv.evaluate.metrics import character_error_rate, is_right, wilson_interval
from minicpmv.loader import load
from minicpmv.scenes import TASKS, Question, Scene, ask, render

DEFAULT_TASKS = (
    "colour",
    "shape",
    "existence",
    "counting",
    "relation",
    "position",
    "size",
    "background",
    "reading",
)
MAX_COUNT = 5  # counting to five
MAX_ANSWER_TOKENS = 48
VERSION = 1  # raised when scenes, questions or scoring change


@dataclass(frozen=True)
class Item:
    """One question that was asked and what came back."""

    task: str
    seed: int
    question: str
    truth: str
    answer: str
    right: bool


@dataclass(frozen=True)
class Score:
    """The share of right answers in one task."""

    task: str
    right: int
    total: int
    low: float
    high: float
    character_error_rate: float | None

    @property
    def share(self) -> float:
        return self.right / self.total


def questions(task: str, split: str, seed: int, number: int) -> list[tuple[int, Scene, Question]]:
    """The first `number` scenes from `seed` on that admit a question of the task, each with one
    question.
    """
    found: list[tuple[int, Scene, Question]] = []
    first = seed * 1_000_000  # seeds of neighbouring runs do not overlap
    for scene_seed in range(first, first + 1_000_000):
        scene = render(scene_seed, split)
        question = ask(scene, task, random.Random(f"evaluate:{task}:{scene_seed}"))
        too_many = task == "counting" and question is not None and int(question.answer) > MAX_COUNT
        if question is not None and not too_many:
            found.append((scene_seed, scene, question))
        if len(found) == number:
            return found
    raise ValueError(f"Among a million scenes only {len(found)} admit a question of task {task!r}.")


def evaluate_task(
    chat: Chat, task: str, *, split: str, seed: int, number: int, blind: bool = False
) -> list[Item]:
    """Ask the questions of one task and compare the answers."""
    asked = questions(task, split, seed, number)
    grey = Image.new("RGB", (224, 224), (128, 128, 128))
    settings: Any = chat.processor
    cuts = settings.image_processor.max_slice_nums is not None  # 1.0 and OmniLMM-12B never do
    answers = chat.batch(
        [(question.text, [grey if blind else scene.image]) for _, scene, question in asked],
        sampling=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=MAX_ANSWER_TOKENS,
        **({"max_slice_nums": 1} if cuts else {}),
    )
    return [
        Item(
            task,
            scene_seed,
            question.text,
            question.answer,
            answer.text,
            # What is printed has to be read letter by letter.
            answer.text == question.answer
            if task == "reading"
            else is_right(answer.text, question.answer),
        )
        for (scene_seed, _, question), answer in zip(asked, answers, strict=True)
    ]


def score(items: list[Item]) -> Score:
    """Count the items of one task."""
    right = sum(item.right for item in items)
    low, high = wilson_interval(right, len(items))
    cer = None
    if items[0].task == "reading":
        cer = character_error_rate([i.answer for i in items], [i.truth for i in items])
    return Score(items[0].task, right, len(items), low, high, cer)


def table(scores: list[Score]) -> str:
    """A Markdown table, one row per task."""
    lines = ["| task | right | n | 95 % interval |", "|---|---|---|---|"]
    for row in scores:
        cer = row.character_error_rate
        share = f"{row.share:.1%}" if cer is None else f"{row.share:.1%} (CER {cer:.0%})"
        lines.append(f"| {row.task} | {share} | {row.total} | {row.low:.1%} to {row.high:.1%} |")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `minicpmv evaluate scenes` can be told."""
    parser.add_argument("-m", "--model", default="nano", help="folder, name on the hub, or nano")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (the default)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto")
    parser.add_argument(
        "--quantize", choices=["int4", "int8"], help="keep the decoder layers in 4 or 8 bits"
    )
    parser.add_argument("--split", default="test", choices=("train", "test"), help="default: test")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="other scenes (default: 0)"
    )
    parser.add_argument(
        "--scenes", type=int, default=200, metavar="N", help="scenes per task (default: 200)"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(DEFAULT_TASKS),
        choices=list(TASKS),
        metavar="TASK",
        help=f"any of {', '.join(TASKS)} (default: all but caption)",
    )
    parser.add_argument(
        "--blind", action="store_true", help="show a grey picture instead: guessing"
    )
    parser.add_argument("--answers", metavar="FILE", help="write one JSON line per answer")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table on stdout, and say on stderr where it is."""
    if args.scenes < 1:
        raise ValueError(f"--scenes is {args.scenes}; it must be at least 1.")
    chat = load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        quantize=args.quantize,
        progress=False,
    )
    if not chat.sees_pictures:
        raise ValueError(f"{args.model!r} reads text only; the questions are about pictures.")
    items: list[Item] = []
    scores: list[Score] = []
    for task in args.tasks:
        print(f"{task}: {args.scenes} scenes", file=sys.stderr, flush=True)
        of_task = evaluate_task(
            chat, task, split=args.split, seed=args.seed, number=args.scenes, blind=args.blind
        )
        items += of_task
        scores.append(score(of_task))
    if args.answers:
        lines = [json.dumps(asdict(item), ensure_ascii=False) for item in items]
        Path(args.answers).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if args.json:
        rows = [{**asdict(row), "share": row.share} for row in scores]
        print(json.dumps({"version": VERSION, "scores": rows}, indent=2))
    else:
        print(table(scores))
    return 0
