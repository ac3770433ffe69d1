"""The recorded conversations as their user gave them: pictures opened, ready for `chat()`."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

FOLDERS = {
    version: Path(__file__).parent / "golden" / name
    for version, name in (("2.5", "minicpm-llama3-v-2_5"), ("2.6", "minicpm-v-2_6"))
}
CHECKPOINTS = {version: folder / "checkpoint" for version, folder in FOLDERS.items()}


def recorded_conversations() -> list[Any]:
    """(version, record) of every conversation, for `pytest.mark.parametrize`."""
    return [
        pytest.param(version, record, id=f"{version}-{record['name']}")
        for version, folder in FOLDERS.items()
        for record in json.loads((folder / "public" / "chat.json").read_text("utf-8"))
    ]


def recorded_picture(version: str, name: str) -> Image.Image:
    with Image.open(FOLDERS[version] / "public" / "images" / f"{name}.png") as image:
        return image.copy()


def recorded_messages(version: str, record: dict[str, Any]) -> Any:
    """`msgs` of a record with its pictures opened; JSON text where it was given so."""
    if record.get("msgs_as_json"):
        return json.dumps(record["msgs"])

    def opened(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"image"}:
                return recorded_picture(version, value["image"])
            return {key: opened(item) for key, item in value.items()}
        return [opened(item) for item in value] if isinstance(value, list) else value

    return opened(record["msgs"])
