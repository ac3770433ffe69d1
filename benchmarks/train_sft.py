"""Fine-tune the same model on the same conversations with `minicpmv train sft` and with TRL's
SFTTrainer, run by run in turn.

    python benchmarks/train_sft.py [--models nano wide] [--pairs 2] [--epochs N] [--json FILE]

Needs TRL: pip install trl datasets. On two cores a pair of runs of nano takes a minute, of "wide"
(the shapes of 2.6 in 4 layers, 151,666 words, 2,048 tokens) two: TRL needs 13 seconds for a
step of one conversation there, so it is 6 conversations once.

Each side is a process of its own, with adapters of rank 8 on q, k, v and o, everything else frozen,
AdamW, bfloat16 and the same number of conversations:

    ours     as the command does by default: packed rows, logits where answers are, features of the
             frozen vision side kept on disk
    live     the same with --no-feature-cache: pictures are encoded at every step
    trl      SFTTrainer's defaults with its vision collator: padded batches, gradient checkpointing
    targets  the same with `minicpmv.integrations.trl.SFTCollator`: answers are trained alone, as
             ours are

Counted are tokens of the conversations (never padding) per second of training after the first step,
which warms up, and trained tokens. TRL trains questions and placeholders too, so its trained tokens
are more; what counts is conversations. Filling the store of features counts into our time and is
shown apart. Memory is the highest resident size of the process over that before the model is
loaded; on CUDA the most that PyTorch allocated.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import train_sft_data as data

sys.path.pop(0)  # a file beside this one has the name of a package, kernels
ROOT = Path(__file__).parents[1]
SIDES = ("ours", "live", "trl", "targets")
# Tokens of the longest conversation, conversations of TRL's batch. A row of ours has that many.
SHAPES = {"nano": (1024, 4), "wide": (2048, 1)}
NUMBERS = {"nano": 120, "wide": 6}  # conversations
EPOCHS = {"nano": 2, "wide": 1}
RANK = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["ours", "live", "trl"])
    parser.add_argument("--pairs", type=int, default=2, help="runs of each side")
    parser.add_argument("--epochs", type=int, help="by default by model")
    parser.add_argument("--number", type=int, help="conversations; by default by model")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--checkpointing", action="store_true", help="of our side too")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run all sides in turn and print the table."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for name in options.models:
            model = data.make_model(name, work / f"{name}-model")
            number = options.number or NUMBERS[name]
            rows = data.make_rows(name, work / f"{name}-pictures", number)
            data.write_official(rows, work / f"{name}.json")
            (work / f"{name}-rows.json").write_text(json.dumps(rows))
            for pair in range(options.pairs):
                for side in options.sides if pair % 2 == 0 else reversed(options.sides):
                    settings = {
                        "side": side,
                        "name": name,
                        "model": model,
                        "work": place,
                        "run": f"{name}-{side}-{pair}",
                        "epochs": options.epochs or EPOCHS[name],
                        "device": options.device,
                        "dtype": options.dtype,
                        "checkpointing": options.checkpointing,
                    }
                    results.append(settings | run(settings))
                    print_line(results[-1])
    print_table(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own."""
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--child", json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{settings['run']} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


class Clock:
    """Times of steps, and tokens in them."""

    def __init__(self) -> None:
        # End by the clock, processor seconds, tokens, trained tokens, conversations.
        self.steps: list[tuple[float, float, int, int, int]] = []
        self.filling = 0.0

    def watch(self) -> None:
        """Look at every `training_step` of transformers' Trainer, which both sides use."""
        import transformers

        step = transformers.Trainer.training_step

        def timed(trainer: Any, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            counts = count(inputs)
            loss = step(trainer, model, inputs, *rest)
            self.steps.append((time.perf_counter(), time.process_time(), *counts))
            return loss

        transformers.Trainer.training_step = timed

    def watch_features(self) -> None:
        """Time the filling of the store."""
        from minicpmv.train import features

        fill = features.fill

        def timed(*args: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            filled = fill(*args, **keywords)
            self.filling += time.perf_counter() - start
            return filled

        features.fill = timed

    def result(self) -> dict[str, Any]:
        """Numbers of the run, the first step left out."""
        seconds = self.steps[-1][0] - self.steps[0][0]
        tokens, trained, conversations = (
            sum(step[i] for step in self.steps[1:]) for i in (2, 3, 4)
        )
        return {
            "steps": len(self.steps),
            "seconds": seconds,
            "processor_seconds": self.steps[-1][1] - self.steps[0][1],
            "filling": self.filling,
            "tokens": tokens,
            "trained": trained,
            "conversations": conversations,
        }


def count(inputs: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens, trained tokens and conversations of a batch."""
    targets = inputs.get("shift_labels")
    if targets is None:
        targets = inputs["labels"][:, 1:]
    trained = int((targets != -100).sum())
    if "cu_seq_lens_q" in inputs:
        return inputs["input_ids"].numel(), trained, len(inputs["cu_seq_lens_q"]) - 1
    return int(inputs["attention_mask"].sum()), trained, len(inputs["input_ids"])


def child(settings: dict[str, Any]) -> None:
    """Train, and print the result."""
    import torch
    import transformers  # noqa: F401

    import minicpmv.auto  # noqa: F401

    clock = Clock()
    clock.watch_features()
    clock.watch()
    train = train_trl if settings["side"] in ("trl", "targets") else train_ours
    before: list[int] = []

    def start() -> None:
        gc.collect()
        if settings["device"] == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the highest size begins anew
            before.append(resident("VmRSS"))

    train(settings, start)
    if settings["device"] == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resident("VmHWM") - before[0]
    print("RESULT", json.dumps(clock.result() | {"peak": peak}))


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def train_ours(settings: dict[str, Any], start: Any) -> None:
    from minicpmv.cli import main as command

    length, batch = SHAPES[settings["name"]]
    import minicpmv.train.sft.run  # noqa: F401  (before memory is looked at)

    start()
    arguments = {
        "model": settings["model"],
        "data": f"{settings['work']}/{settings['name']}.json",
        "output": f"{settings['work']}/{settings['run']}",
        "lora-r": RANK,
        "lora-alpha": 2 * RANK,
        "lora-dropout": 0,
        "max-length": length,
        "batch": batch // 2 or 1,  # rows of ours have no padding: about as many conversations
        "epochs": settings["epochs"],
        "learning-rate": 1e-4,
        "device": settings["device"],
        "dtype": settings["dtype"],
        "samples": 0,
        "save-every": 1_000_000,
    }
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    flags += ["--lora", "--no-tune-resampler"]
    flags += ["--no-feature-cache"] if settings["side"] == "live" else []
    flags += ["--gradient-checkpointing"] if settings["checkpointing"] else []
    code = command(["train", "sft", *flags])
    if code:
        sys.exit(code)


def train_trl(settings: dict[str, Any], start: Any) -> None:
    import torch
    from datasets import Dataset, Image, List
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import SFTConfig, SFTTrainer

    from minicpmv.checkpoint.hub import Checkpoint
    from minicpmv.integrations.trl import SFTCollator

    rows = json.loads(Path(f"{settings['work']}/{settings['name']}-rows.json").read_text())
    table = [{"messages": data.messages_of(row), "images": row["images"]} for row in rows]
    dataset = Dataset.from_list(table).cast_column("images", List(Image()))
    length, batch = SHAPES[settings["name"]]
    start()
    folder = Checkpoint.find(settings["model"]).location
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, settings["dtype"])
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=f"{settings['work']}/{settings['run']}",
            per_device_train_batch_size=batch,
            num_train_epochs=settings["epochs"],
            learning_rate=1e-4,
            max_length=length,
            bf16=settings["dtype"] == "bfloat16",
            use_cpu=settings["device"] == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        processing_class=processor,
        data_collator=SFTCollator(processor) if settings["side"] == "targets" else None,
        peft_config=LoraConfig(
            r=RANK,
            lora_alpha=2 * RANK,
            target_modules=r".*language_model\..*\.self_attn\.(q|k|v|o)_proj",
        ),
    )
    trainer.train()


def print_line(result: dict[str, Any]) -> None:
    rate = result["tokens"] / result["seconds"]
    print(
        f"{result['run']:<16} {rate:8.0f} tokens/s, {result['peak'] / 2**20:6.0f} MiB, "
        f"{result['tokens'] / result['processor_seconds']:.0f} tokens per processor second, "
        f"{result['steps']} steps of {result['seconds'] / max(1, result['steps'] - 1):.2f} s, "
        f"features {result['filling']:.1f} s",
        flush=True,
    )


def print_table(results: list[dict[str, Any]]) -> None:
    """Medians, and the ratio to TRL's."""
    print(
        "\n| model | side | tokens/s | with features | trained tokens/s | conversations/s | "
        "to TRL | peak MiB | to TRL |\n|---|---|---|---|---|---|---|---|---|"
    )
    names = sorted({result["name"] for result in results})
    for name in names:
        medians = {
            side: summary([r for r in results if (r["name"], r["side"]) == (name, side)])
            for side in SIDES
        }
        other = medians["trl"]
        for side, row in medians.items():
            if row is None:
                continue
            speed = row["conversations"] / other["conversations"] if other else float("nan")
            memory = row["peak"] / other["peak"] if other else float("nan")
            print(
                f"| {name} | {side} | {row['tokens']:.0f} | {row['filled']:.0f} | "
                f"{row['trained']:.0f} | {row['conversations']:.2f} | {speed:.2f} | "
                f"{row['peak'] / 2**20:.0f} | {memory:.2f} |"
            )


def summary(runs: list[dict[str, Any]]) -> dict[str, float] | None:
    """Medians of runs: per second, of conversations with the filling of the store."""
    if not runs:
        return None
    rates = {
        "tokens": [r["tokens"] / r["seconds"] for r in runs],
        "filled": [r["tokens"] / (r["seconds"] + r["filling"]) for r in runs],
        "trained": [r["trained"] / r["seconds"] for r in runs],
        "conversations": [r["conversations"] / (r["seconds"] + r["filling"]) for r in runs],
        "peak": [r["peak"] for r in runs],
    }
    return {name: statistics.median(values) for name, values in rates.items()}


if __name__ == "__main__":
    main()
