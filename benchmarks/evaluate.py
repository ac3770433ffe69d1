"""`minicpmv evaluate` beside lmms-eval's own way of running a checkpoint, on the same questions.

    python benchmarks/evaluate.py [--models nano FOLDER ...] [--dtype float32] [--items 600]

Needs lmms-eval beside this package: pip install --no-deps lmms_eval==0.7.3, and what it imports:
pip install loguru pytz evaluate datasets pandas.

The items are drawn pictures of unequal sizes with short questions: figures, printed words and
lines, receipts, charts and tables. Each side is a process of its own, in turn, in rounds; loading
and a few questions beforehand are not counted. Ours is what the command does: 32 items at a time,
beginning with what takes longest, in this process and with two workers; `single` asks one item at
a time. lmms-eval's is its model `huggingface`, one item at a time, its default, and 8 at a time. It
is given the class of transformers that generates (version 0.7.3 loads the one without a head) and
all tokens that end an answer (it knows one). Answers are greedy; every one is compared with that of
lmms-eval at one item at a time, special tokens taken out. Ratios are those of one round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

SIDES = ("ours", "two workers", "lmms-eval", "lmms-eval x8")
PARTS = ("open", "counting", "word", "line", "document", "chart", "cell")
NEW_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["nano"], help="nano, or folders")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=(*SIDES, "single"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        settings = json.loads(args.child[0])
        Path(args.child[1]).write_text(json.dumps(child(settings)))
        return
    from minicpmv.devices import processor_name

    print(processor_name())
    for model in args.models:
        compare(model, args)


def compare(model: str, args: argparse.Namespace) -> None:
    ratios: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        results = {}
        for side in args.sides:
            settings = {"side": side, "model": model, "dtype": args.dtype, "items": args.items}
            results[side] = run(settings)
        for side, result in results.items():
            line = f"{Path(model).name} {args.dtype}, {side}: {args.items / result['seconds']:.2f}"
            line += f" items per second ({result['cpu'] / args.items * 1000:.0f} ms CPU each)"
            if side != "lmms-eval" and (peer := results.get("lmms-eval")):
                ratio = peer["seconds"] / result["seconds"]
                ratios.setdefault(side, []).append(ratio)
                pairs = zip(result["answers"], peer["answers"], strict=True)
                same = sum(one == other for one, other in pairs)
                line += f", {ratio:.2f} times lmms-eval's, {same} of {args.items} answers its own"
            print(line, flush=True)
    for side, found in ratios.items():
        print(f"{Path(model).name} {args.dtype}, {side}: median {statistics.median(found):.2f}")


def run(settings: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, __file__, "--child", json.dumps(settings), file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{settings['side']} failed:\n{done.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(Path(file.name).read_text())
        return result


def child(settings: dict[str, Any]) -> dict[str, Any]:
    """One side: what it takes for all items, after one of each kind."""
    warm, items = drawn(2 * len(PARTS), 1), drawn(settings["items"], 0)
    side = settings["side"]
    if side.startswith("lmms-eval"):
        ask = of_lmms_eval(settings, 8 if side.endswith("x8") else 1)
    else:
        ask = of_ours(settings, 1 if side == "single" else 32, 2 if side == "two workers" else 1)
    ask(warm)
    begin, begin_cpu = time.perf_counter(), cpu_seconds()
    answers = ask(items)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu": cpu_seconds() - begin_cpu,
        "answers": answers,
    }


def cpu_seconds() -> float:
    """Of this process and its workers."""
    this = psutil.Process()
    times = [each.cpu_times() for each in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def drawn(number: int, seed: int) -> list[tuple[Any, str]]:
    """Pictures and questions, each part in turn."""
    from minicpmv.evaluate.scenes.samples import draw_samples
    from minicpmv.evaluate.scenes.tasks import SUBTASKS

    each = -(-number // len(PARTS))
    columns = [
        draw_samples(SUBTASKS[part].draw, split="test", seed=seed, number=each) for part in PARTS
    ]
    items = [sample.examples[0] for row in zip(*columns, strict=True) for sample in row]
    return [(item.scenes[0].image, item.turns[-1].question) for item in items[:number]]


Ask = Callable[[list[tuple[Any, str]]], list[str]]


def of_ours(settings: dict[str, Any], at_a_time: int, workers: int) -> Ask:
    from minicpmv.evaluate.answering import Answerer, LocalAnswerer
    from minicpmv.evaluate.asking import Asking
    from minicpmv.evaluate.items import Item
    from minicpmv.evaluate.page import load_page
    from minicpmv.evaluate.processes import ProcessAnswerer, load_in_turn

    name = settings["model"]
    answerer: Answerer
    loaded = partial(load_in_turn, name, {"dtype": settings["dtype"]})
    if workers > 1:
        answerer = ProcessAnswerer(workers, loaded, name, at_a_time)
    else:
        answerer = LocalAnswerer(loaded(0), name, at_a_time)
    overrides = {
        "prompt": "{pictures}{question}",
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "max_new_tokens": NEW_TOKENS,
        "upsize": False,
    }
    special = special_tokens(name)
    asking = Asking(load_page("ocrbench"), "default", overrides)

    def ask(items: list[tuple[Any, str]]) -> list[str]:
        asked = [
            Item(str(index), question, (picture,))
            for index, (picture, question) in enumerate(items)
        ]
        found = dict(answerer.answers(asking, asked))
        assert not any(reply.error for reply in found.values()), found
        return [plain(found[item.id].text or "", special) for item in asked]

    return ask


def of_lmms_eval(settings: dict[str, Any], at_a_time: int) -> Ask:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.chat import huggingface
    from transformers import AutoModelForImageTextToText

    from minicpmv import auto  # noqa: F401  # the classes

    class WithHead:
        @staticmethod
        def from_pretrained(folder: str, torch_dtype: str, **options: Any) -> Any:
            options["dtype"] = settings["dtype"]
            model = AutoModelForImageTextToText.from_pretrained(folder, **options)
            stops = model.generation_config.eos_token_id
            generate = model.generate
            model.generate = lambda **inputs: generate(**{**inputs, "eos_token_id": stops})
            return model

    huggingface.AutoModel = WithHead
    folder = folder_of(settings["model"])
    special = special_tokens(settings["model"])
    model = huggingface.Huggingface(
        pretrained=folder, device="cpu", device_map="cpu", batch_size=at_a_time
    )

    def messages(document: tuple[Any, str]) -> list[dict[str, Any]]:
        picture, question = document
        content = [{"type": "image", "url": picture}, {"type": "text", "text": question}]
        return [{"role": "user", "content": content}]

    def ask(items: list[tuple[Any, str]]) -> list[str]:
        model.task_dict = {"drawn": {"test": items}}
        requests = [
            Instance(
                request_type="generate_until",
                arguments=("", messages, {"max_new_tokens": NEW_TOKENS}, index, "drawn", "test"),
                idx=0,
                metadata={"task": "drawn", "doc_id": index, "repeats": 1},
            )
            for index in range(len(items))
        ]
        return [plain(reply.text, special) for reply in model.generate_until(requests)]

    return ask


def folder_of(model: str) -> str:
    import minicpmv

    return str(Path(minicpmv.__file__).parent / "nano") if model == "nano" else model


def special_tokens(model: str) -> list[str]:
    from transformers import AutoTokenizer

    from minicpmv import auto  # noqa: F401  # the classes

    tokenizer = AutoTokenizer.from_pretrained(folder_of(model))
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def plain(answer: str, special: list[str]) -> str:
    for token in special:
        answer = answer.replace(token, "")
    return answer.strip()


if __name__ == "__main__":
    main()
