"""TRL's GRPOTrainer on pictures: two steps, the reward is the length of the answer."""

from typing import Any

import torch
from cases import LORA, MODELS, WORK, case, expect, pictures, question, run_cases, table
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig, GRPOTrainer

import minicpmv.auto  # noqa: F401


def length(completions: list[Any], **rest: Any) -> list[float]:
    """A reward."""
    return [float(len(completion[0]["content"])) for completion in completions]


def check(model: str) -> None:
    rows = [{"prompt": question(files), "images": files} for files in pictures()]
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(MODELS[model], dtype=torch.float32),
        reward_funcs=length,
        args=GRPOConfig(
            output_dir=str(WORK / f"grpo-{model}"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            num_generations=2,
            max_completion_length=8,
            max_steps=2,
            learning_rate=1e-3,
            beta=0.1,  # the reference's log-probabilities are computed too
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=table(rows),
        processing_class=AutoProcessor.from_pretrained(MODELS[model], size_names="spatial_shapes"),
        peft_config=LoraConfig(r=4, target_modules=LORA),
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "reward" in log]
    expect(len(logs) == 2 and all(log["reward"] > 0 for log in logs), logs)


for _model in ("nano", "2.6", "2.5", "2.0"):
    case("GRPO", _model)(lambda m=_model: check(m))

if __name__ == "__main__":
    run_cases()
