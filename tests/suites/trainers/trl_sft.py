"""TRL's SFTTrainer on pictures: two steps, and that only answers and terminators are trained."""

from typing import Any

import torch
from cases import (
    ANSWERS,
    LORA,
    MODELS,
    WORK,
    answer,
    case,
    expect,
    pictures,
    question,
    run_cases,
    table,
    trained_texts,
)
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

import minicpmv
from minicpmv.integrations.trl import SFTCollator

ENDS = {"nano": "<|im_end|>", "2.6": "<|im_end|>", "2.5": "<|eot_id|>", "2.0": "</s>"}


def rows(kind: str) -> list[dict[str, Any]]:
    """Rows of `messages`, or of `prompt` and `completion`."""
    made = []
    for files, text in zip(pictures(), ANSWERS, strict=True):
        asked, answered = question(files), answer(text)
        parts = {"prompt": asked, "completion": answered}
        messages = {"messages": [*asked, *answered]}
        made.append((parts if kind == "completion" else messages) | {"images": files})
    return made


def trainer_of(model: str, kind: str) -> SFTTrainer:
    processor = AutoProcessor.from_pretrained(MODELS[model])
    return SFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(MODELS[model], dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(WORK / f"sft-{model}-{kind}"),
            per_device_train_batch_size=2,
            max_steps=2,
            bf16=False,
            use_cpu=True,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            assistant_only_loss=kind == "assistant",
        ),
        train_dataset=table(rows(kind)),
        processing_class=processor,
        data_collator=SFTCollator(processor) if kind == "collator" else None,
        peft_config=LoraConfig(r=4, target_modules=LORA),
    )


def check(model: str, kind: str) -> None:
    trainer = trainer_of(model, kind)
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    processor = trainer.processing_class
    labels = batch["shift_labels"] if kind == "collator" else batch["labels"]
    found = trained_texts(processor, labels)
    expect(found == [text + ENDS[model] for text in ANSWERS], found)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    expect(len(losses) == 2 and all(0 < loss < 100 for loss in losses), losses)
    folder = WORK / f"adapter-{model}-{kind}"
    trainer.save_model(str(folder))
    loaded = minicpmv.load(MODELS[model], adapter=folder, dtype="float32").model
    trained = [p for name, p in loaded.named_parameters() if "lora_B" in name]
    expect(trained and all(p.any() for p in trained), len(trained))


for _model in ("nano", "2.6", "2.5", "2.0"):
    for _kind in ("collator", "assistant", "completion"):
        case(f"SFT, {_kind}", _model)(lambda m=_model, k=_kind: check(m, k))

if __name__ == "__main__":
    run_cases()
