"""A random model like nano in small, in a folder, and rows to fine-tune it on."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from minicpmv.checkpoint.hub import SMALL_FILES, Checkpoint
from minicpmv.checkpoint.names import location_of
from minicpmv.loader import MODEL_CLASSES
from minicpmv.train.sft.full import save_checkpoint

COLOURS = ("red", "green", "blue", "black")


def micro_checkpoint(folder: Path, **changes: Any) -> Path:
    """A checkpoint with nano's tokenizer and preprocessor, and random weights in float32.

    Args:
        changes: fields of its config.json that differ.
    """
    nano = Path(location_of("nano"))
    source = folder.with_name(folder.name + "-files")
    source.mkdir(parents=True)
    for name in SMALL_FILES:
        if (nano / name).is_file():
            shutil.copyfile(nano / name, source / name)
    fields = json.loads((nano / "config.json").read_text(encoding="utf-8"))
    fields |= {
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "query_num": 4,
        "torch_dtype": "float32",
        "slice_config": fields["slice_config"] | {"max_slice_nums": 1},
        "vision_config": fields["vision_config"]
        | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    } | changes
    (source / "config.json").write_text(json.dumps(fields))
    path = source / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"image_feature_size": 4, "max_slice_nums": 1}))
    torch.manual_seed(0)
    model_class = MODEL_CLASSES["minicpmv"]
    model = model_class(model_class.config_class.from_dict(dict(fields)))
    save_checkpoint(model, Checkpoint.find(source), folder, dtype=torch.float32)
    return folder


def write_rows(folder: Path, number: int = 12, *, text_only: int = 3) -> Path:
    """An official JSON file of questions about the colour of a picture, and of some without."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for i in range(number):
        colour = COLOURS[i % len(COLOURS)]
        name = f"{i}.png"
        Image.new("RGB", (28 + 14 * (i % 3), 28), colour).save(folder / name)
        rows.append(
            {
                "id": str(i),
                "image": name,
                "conversations": [
                    {"role": "user", "content": "<image>\nWhich colour?"},
                    {"role": "assistant", "content": colour},
                ],
            }
        )
    for i in range(text_only):
        asked = [{"role": "user", "content": f"Say {i}."}]
        rows.append(
            {"id": f"t{i}", "conversations": [*asked, {"role": "assistant", "content": f"{i}!"}]}
        )
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def weights_of(folder: Path) -> dict[str, Any]:
    """What a run has written, by name."""
    name = "adapter_model.safetensors"
    path = folder / name if (folder / name).exists() else folder / "model.safetensors"
    return load_file(path)


def short_run(model: Path, data: Path, output: Path) -> dict[str, Any]:
    """Options of a fine-tuning of four steps in float32, with a checkpoint after each second."""
    return {
        "model": str(model),
        "data": str(data),
        "output": str(output),
        "max_length": 64,
        "max_steps": 4,
        "save_every": 2,
        "log_every": 1,
        "samples": 0,
        "dtype": "float32",
        "device": "cpu",
        "learning_rate": 1e-3,
        "warmup": 0.0,
    }


def losses_of(folder: Path) -> torch.Tensor:
    """What a run has measured, in training and in evaluation."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([r.get("loss", r.get("eval_loss")) for r in records])
