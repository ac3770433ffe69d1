"""The conversations of the recorded data, for all nine models, as rows of training data."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.data.encode import EncodeSettings, Example, encode_conversation
from minicpmv.data.messages import Conversation, Message, Picture, canonical
from minicpmv.data.pictures import PictureReader
from minicpmv.loader import load_processor, read_config

from .golden import CHECKPOINTS, FIRST_FOLDERS, GOLDEN, Golden

TEXT_FOLDERS = {
    name: GOLDEN / name
    for name in ("minicpm-1b", "minicpm-2b", "minicpm-2b-128k", "minicpm-moe-8x2b")
}
MODELS = [*CHECKPOINTS, *TEXT_FOLDERS]


class Recorded(NamedTuple):
    """One conversation, which ends with a question.

    Fields:
        name: of the record.
        messages: history and question.
        settings: of the call: max_slice_nums, use_image_id.
    """

    name: str
    messages: tuple[Message, ...]
    settings: dict[str, Any]


def reads_pictures(model: str) -> bool:
    return model not in TEXT_FOLDERS


def folder_of(model: str) -> Path:
    """The recorded checkpoint."""
    return CHECKPOINTS.get(model) or TEXT_FOLDERS[model] / "ckpt"


@lru_cache
def processor_of(model: str) -> Any:
    """The processor of a recorded checkpoint, as `load` makes it. Shared: do not change it."""
    checkpoint = Checkpoint.find("nano" if model == "nano" else str(folder_of(model)))
    return load_processor(checkpoint, read_config(checkpoint))


@lru_cache
def recorded(model: str) -> list[Recorded]:
    """The conversations that were recorded with a model, each once."""
    if model == "nano":  # nothing was recorded with it; it reads what 2.6 reads
        return recorded("2.6")
    found = _of_text_model(model) if model in TEXT_FOLDERS else _with_pictures(model)
    assert found, model
    return found


def _with_pictures(model: str) -> list[Recorded]:
    golden = Golden(model)
    found = []
    for name, record in golden.records.items():
        kwargs = record.get("kwargs") or {}
        settings = {k: kwargs[k] for k in ("max_slice_nums", "use_image_id") if k in kwargs}
        image = record.get("image")
        if record.get("image_file"):
            image = Path(record["image_file"]).stem
        several = record["msgs"] if isinstance(record["msgs"][0], list) else [record["msgs"]]
        for number, conversation in enumerate(several):
            messages = [_message(golden, message) for message in conversation]
            if image is not None:
                first = messages[0]
                picture = Picture(golden.image(image))
                messages[0] = Message(first.role, canonical([picture, *first.parts]))
            if kwargs.get("system_prompt"):
                messages.insert(0, Message("system", (kwargs["system_prompt"],)))
            found.append(Recorded(f"{name}-{number}", tuple(messages), settings))
    return found


def _message(golden: Golden, message: dict[str, Any]) -> Message:
    content = message["content"]
    content = [content] if isinstance(content, str) else content
    parts = [p if isinstance(p, str) else Picture(golden.image(p["image"])) for p in content]
    return Message(message["role"], canonical(parts))


def _of_text_model(model: str) -> list[Recorded]:
    manifest = json.loads((TEXT_FOLDERS[model] / "public" / "manifest.json").read_text())
    found: dict[str, list[dict[str, str]]] = {}
    for case in manifest["cases"]:
        inputs = {name: value.get("json") for name, value in case["inputs"].items()}
        if case["kind"] == "chat_template":
            messages = inputs["messages"]
        elif case["kind"] == "chat":
            messages = [*(inputs["history"] or []), {"role": "user", "content": inputs["query"]}]
        else:
            continue
        if messages[-1]["role"] == "user":
            found[json.dumps(messages)] = messages
    return [
        Recorded(str(i), tuple(Message(m["role"], (m["content"],)) for m in messages), {})
        for i, messages in enumerate(found.values())
    ]


def picture(width: int = 60, height: int = 40, colour: str = "red") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def examples_of(model: str, reader: PictureReader) -> list[Example]:
    """Three rows of a model: one picture, none, and two where the model takes pictures."""
    shown: list[tuple[Picture, ...]] = [(), (), ()]
    if reads_pictures(model):
        large = Picture(picture(900, 500, "blue"))
        shown = [(Picture(picture()),), (), (large, Picture(picture(50, 90, "green")))]
    rows = [
        Conversation(
            (
                Message("user", (*pictures, "What is it? " * (1 + number))),
                Message("assistant", ("Red. " * (2 * number) + "Yes.",)),
            ),
            row=number,
        )
        for number, pictures in enumerate(shown)
    ]
    processor = processor_of(model)
    return [
        example
        for row in rows
        for example in encode_conversation(processor, row, EncodeSettings(), reader)
    ]


__all__ = [
    "FIRST_FOLDERS",
    "MODELS",
    "Recorded",
    "examples_of",
    "folder_of",
    "picture",
    "processor_of",
    "reads_pictures",
    "recorded",
]
