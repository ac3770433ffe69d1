"""TRL's DPOTrainer on pictures: two steps, of which the first has the loss ln 2."""

import math
from typing import Any

import torch
from cases import LORA, MODELS, WORK, answer, case, expect, pictures, question, run_cases, table
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer

import minicpmv.auto  # noqa: F401


def rows() -> list[dict[str, Any]]:
    return [
        {
            "prompt": question(files),
            "chosen": answer("It is red."),
            "rejected": answer("Nothing at all."),
            "images": files,
        }
        for files in pictures()
    ]


def check(model: str) -> None:
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(MODELS[model], dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(WORK / f"dpo-{model}"),
            per_device_train_batch_size=2,
            max_steps=2,
            learning_rate=1e-3,
            bf16=False,
            use_cpu=True,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=table(rows()),
        processing_class=AutoProcessor.from_pretrained(MODELS[model]),
        peft_config=LoraConfig(r=4, target_modules=LORA),
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    expect(len(losses) == 2 and abs(losses[0] - math.log(2)) < 1e-3, losses)


for _model in ("nano", "2.6", "2.5", "2.0"):
    case("DPO", _model)(lambda m=_model: check(m))

if __name__ == "__main__":
    run_cases()
