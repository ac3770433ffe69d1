"""Models and conversations of `train_sft.py`: nano with mixed conversations, and the shapes of 2.6
in 4 layers with a vocabulary of 151,666 words and conversations of about 2,000 tokens."""

import json
import random
import shutil
from pathlib import Path

import torch
from PIL import Image

from minicpmv.scenes import render

TESTS = Path(__file__).parents[1] / "tests"
TEXT = (
    "the red circle stands left of a small green star and the word under it says hello to "
    "everyone who looks at the picture for long enough to count all of its figures"
)
WORDS = TEXT.split()
VOCABULARY = 151_666


def make_model(name: str, folder: Path) -> str:
    """What `load` takes: "nano", or a random model in `folder`."""
    if name == "nano":
        return "nano"
    from transformers import AutoModelForImageTextToText

    import minicpmv.auto  # noqa: F401
    from tests.golden.pack import unpack_all

    unpack_all()
    golden = TESTS / "golden" / "minicpm-v-2_6" / "checkpoint"
    config = AutoModelForImageTextToText.from_pretrained(golden).config  # with its tokens' ids
    text = config.text_config
    text.vocab_size, text.hidden_size, text.num_hidden_layers = VOCABULARY, 512, 4
    text.intermediate_size, text.num_attention_heads, text.num_key_value_heads = 2048, 8, 2
    text.max_position_embeddings, text.max_window_layers = 4096, 4
    text.layer_types = ["full_attention"] * 4
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
    model.save_pretrained(folder)
    for file in golden.iterdir():
        if file.suffix == ".json" and not (folder / file.name).exists():
            shutil.copy(file, folder)
    fields = json.loads((folder / "config.json").read_text())
    # Those of the tests' tokenizer: by its vocabulary the model would take the released ones.
    names = ("image_token", "image_start", "image_end", "slice_start", "slice_end")
    fields |= {f"{name}_id": getattr(config, f"{name}_id") for name in names}
    (folder / "config.json").write_text(json.dumps(fields, indent=2))
    _widen_tokenizer(folder / "tokenizer.json")
    return str(folder)


def _widen_tokenizer(path: Path) -> None:
    """Give the vocabulary as many words as the model has; those that are new are never used."""
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    words |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    words |= {f"unused {number}": number for number in range(len(words), VOCABULARY)}
    path.write_text(json.dumps(tokenizer))


def make_rows(name: str, folder: Path, number: int) -> list[dict]:
    """Conversations with their pictures as files: `images` [path], `turns` [[question, answer]].

    Nano: text alone, one and two pictures, one to four turns, 40 to 700 tokens. Wide: one picture
    and about 2,000 tokens each.
    """
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(number):
        count = (0, 1, 2, 1)[index % 4] if name == "nano" else 1
        images = []
        for place in range(count):
            path = folder / f"{index}_{place}.png"
            # 224 x 224 is one slice of nano's, 224 x 336 three.
            size = (224, 336) if index % 4 == 3 else (224, 224)
            image = render(10 * index + place, size=size).image
            (image if name == "nano" else image.resize((112, 112), Image.BICUBIC)).save(path)
            images.append(str(path))
        if name == "nano":
            turns = [
                [_text(rng, rng.randint(4, 30)), _text(rng, rng.choice([2, 8, 20, 60]))]
                for _ in range(rng.randint(1, 4))
            ]
        else:
            turns = [[_text(rng, 56), _text(rng, 96)] for _ in range(6)]
        rows.append({"images": images, "turns": turns})
    return rows


def write_official(rows: list[dict], path: Path) -> None:
    """The rows in the released JSON format."""
    written = []
    for index, row in enumerate(rows):
        names = [f"<image_{place:02d}>" for place in range(len(row["images"]))]
        turns = []
        for place, (question, answer) in enumerate(row["turns"]):
            shown = "".join(f"{name}\n" for name in names) if place == 0 else ""
            turns += [
                {"role": "user", "content": shown + question},
                {"role": "assistant", "content": answer},
            ]
        entry = {"id": str(index), "conversations": turns}
        if names:
            entry["image"] = dict(zip(names, row["images"], strict=True))
        written.append(entry)
    path.write_text(json.dumps(written))


def messages_of(row: dict) -> list[dict]:
    """The row as TRL takes it; its pictures are in the column `images`."""
    messages = []
    for place, (question, answer) in enumerate(row["turns"]):
        pictures = [{"type": "image", "text": None}] * len(row["images"]) if place == 0 else []
        messages += [
            {"role": "user", "content": [*pictures, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
    return messages


def _text(rng: random.Random, number: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(number))
