"""ms-swift on pictures, by our register file: two steps, an answer, and its adapter here."""

import json
from pathlib import Path
from typing import Any

import torch
from cases import ANSWERS, MODELS, ROOT, WORK, case, expect, pictures, run_cases
from PIL import Image
from swift.arguments import SftArguments
from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine
from swift.pipelines import sft_main

import minicpmv

PLUGIN = str(ROOT / "minicpmv" / "integrations" / "swift.py")
QUESTION = "What is shown?"


def data(model: str) -> Path:
    """Rows of one picture, of two where the release takes them, of none, and of two answers."""
    rows: list[dict[str, Any]] = []
    for files, text in zip(pictures(), ANSWERS, strict=True):
        files = files[:1] if model == "1.0" else files
        asked = "<image>" * len(files) + QUESTION
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": text}]
        rows.append({"messages": messages, "images": files})
    more = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    rows.append({"messages": [*rows[0]["messages"], *more], "images": rows[0]["images"]})
    rows.append({"messages": more})
    path = WORK / f"swift-{model}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(model: str) -> Path:
    """The folder of the adapter after two steps."""
    output = WORK / f"swift-{model}"
    result = sft_main(
        SftArguments(
            model=MODELS[model],
            model_type="minicpmv_native",
            external_plugins=[PLUGIN],
            dataset=[str(data(model))],
            output_dir=str(output),
            add_version=False,
            tuner_type="lora",
            lora_rank=4,
            torch_dtype="float32",
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            max_steps=2,
            logging_steps=1,
            save_steps=2,
            learning_rate=1e-3,
            split_dataset_ratio=0,
            dataloader_num_workers=1,
            strict=True,
            report_to=[],
        )
    )
    logs = [log["loss"] for log in result["log_history"] if "loss" in log]
    expect(len(logs) == 2 and all(0 < loss < 100 for loss in logs), logs)
    return Path(result["last_model_checkpoint"])


def check(model: str) -> None:
    folder = train(model)
    file = pictures()[0][0]
    engine = TransformersEngine(
        MODELS[model],
        model_type="minicpmv_native",
        adapters=[str(folder)],
        torch_dtype=torch.float32,
    )
    request = InferRequest([{"role": "user", "content": f"<image>{QUESTION}"}], images=[file])
    (answer,) = engine.infer(
        [request], RequestConfig(max_tokens=8, temperature=0, repetition_penalty=1.0)
    )
    theirs = answer.choices[0].message.content
    chat = minicpmv.load(MODELS[model], adapter=folder, dtype="float32")
    greedy = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}
    ours = chat.ask(QUESTION, [Image.open(file)], max_new_tokens=8, **greedy)
    print(f"{model}: {theirs!r}, {ours!r}")
    expect(ours == theirs, (theirs, ours))
    trained = [p for name, p in chat.model.named_parameters() if "lora_B" in name]
    expect(trained and all(p.any() for p in trained), len(trained))


for _model in ("2.6", "2.5", "2.0", "1.0"):
    case("ms-swift", _model)(lambda m=_model: check(m))

if __name__ == "__main__":
    run_cases()
