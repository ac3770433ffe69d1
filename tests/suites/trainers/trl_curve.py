"""Twenty steps of `minicpmv train sft` and of TRL's SFTTrainer on the same rows: equal losses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cases import MODELS, ROOT, WORK, answer, case, expect, question, run_cases, table
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed
from trl import SFTConfig, SFTTrainer

import minicpmv.auto  # noqa: F401
from minicpmv.data.encode import EncodeSettings, encode_conversation
from minicpmv.data.files import open_rows
from minicpmv.data.packing import RowDataset, plan_rows
from minicpmv.data.pictures import PictureReader

_STEPS = 20
_RATE = 5e-4
_MOST_APART = 1e-3


def rows() -> list[dict[str, Any]]:
    """Conversations of one picture, two, and none."""
    made = []
    for number in range(_STEPS):
        files = []
        for other in range(number % 3):
            path = WORK / f"curve-{number}-{other}.png"
            Image.effect_noise((60 + 10 * number, 100), 80).convert("RGB").save(path)
            files.append(str(path))
        text = f"There are {number} of them, as was said before." * (1 + number % 2)
        made.append({"messages": [*question(files), *answer(text)], "images": files})
    return made


def ours(model: str, data: Path) -> list[float]:
    """One row in each step, no packing, everything but the vision tower trained."""
    output = WORK / f"curve-{model}"
    flags = {
        "model": MODELS[model],
        "data": data,
        "output": output,
        "epochs": 1,
        "learning-rate": _RATE,
        "schedule": "constant",
        "warmup": 0,
        "adam-beta2": 0.999,
        "weight-decay": 0,
        "dtype": "float32",
        "device": "cpu",
        "log-every": 1,
        "samples": 0,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "minicpmv", "train", "sft", *words, "--no-packing"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False
    )
    expect(done.returncode == 0, done.stderr.decode()[-2000:])
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def order_of(processor: Any, data: Path) -> list[int]:
    """The rows as our run takes them."""
    reader, settings = PictureReader(), EncodeSettings()
    examples = [
        example
        for row in open_rows(data)
        for example in encode_conversation(processor, row, settings, reader)
    ]
    lengths = [len(example.input_ids) for example in examples]
    steps = RowDataset(plan_rows(lengths, 1, seed=0), 0)
    return [examples[number].row for step in range(len(steps)) for number in steps[step]]


def theirs(model: str, processor: Any, ordered: list[dict[str, Any]]) -> list[float]:
    """TRL with its own collator, trained on answers only."""
    set_seed(0)
    network = AutoModelForImageTextToText.from_pretrained(MODELS[model], dtype=torch.float32)
    network.model.vision_tower.requires_grad_(False)
    trainer = SFTTrainer(
        model=network,
        args=SFTConfig(
            output_dir=str(WORK / f"curve-trl-{model}"),
            per_device_train_batch_size=1,
            num_train_epochs=1,
            learning_rate=_RATE,
            lr_scheduler_type="constant",
            weight_decay=0,
            max_length=None,
            assistant_only_loss=True,
            bf16=False,
            use_cpu=True,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=table(ordered),
        processing_class=processor,
    )
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def check(model: str) -> None:
    made = rows()
    data = WORK / "curve.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in made))
    processor = AutoProcessor.from_pretrained(MODELS[model])
    first = ours(model, data)
    second = theirs(model, processor, [made[row] for row in order_of(processor, data)])
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        print(f"step {step + 1:2}: minicpmv {one:.5f}, TRL {other:.5f}")
    apart = max(abs(one - other) for one, other in zip(first, second, strict=True))
    print(f"at most {apart:.1e} apart")
    expect(len(first) == _STEPS and apart <= _MOST_APART, apart)


case("curve of SFT", "nano")(lambda: check("nano"))

if __name__ == "__main__":
    run_cases()
