"""TRL's SFTTrainer on a text model: answers are trained to end, which its template leaves out."""

import torch
from cases import TEXT_MODELS, WORK, case, expect, run_cases, trained_texts
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import minicpmv
from minicpmv.integrations.trl import SFTCollator


def check(model: str) -> None:
    chat = minicpmv.load(TEXT_MODELS[model], dtype="float32")
    messages = [
        {"role": role, "content": text}
        for role, text in (("user", "Hello"), ("assistant", "Good day"))
    ]
    again = [{"role": "user", "content": "So?"}, {"role": "assistant", "content": "Yes"}]
    trainer = SFTTrainer(
        model=chat.model.train(),
        args=SFTConfig(
            output_dir=str(WORK / f"sft-{model}"),
            per_device_train_batch_size=2,
            max_steps=2,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
        ),
        train_dataset=Dataset.from_list([{"messages": messages}, {"messages": messages + again}]),
        processing_class=chat.processor.tokenizer,
        data_collator=SFTCollator(chat.processor),
        peft_config=LoraConfig(r=4),
    )
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    found = trained_texts(chat.processor, batch["shift_labels"])
    expect(found == ["Good day</s>", "Good day</s>Yes</s>"], found)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    expect(len(losses) == 2 and torch.tensor(losses).isfinite().all(), losses)


for _model in TEXT_MODELS:
    case("SFT, collator", _model)(lambda m=_model: check(m))

if __name__ == "__main__":
    run_cases()
