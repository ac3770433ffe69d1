"""A conversation as a JSON file that holds its pictures: what `Conversation.save` writes."""

import base64
import io
import json
from pathlib import Path
from typing import Any

FORMAT = "minicpmv conversation 1"


def write_conversation(
    path: str,
    model: str,
    system: str | None,
    options: dict[str, Any],
    messages: list[dict[str, Any]],
) -> None:
    """Write the conversation; an earlier conversation in the file is replaced, another file is not.

    Raises:
        ValueError: the file holds something else.
    """
    if Path(path).exists():
        try:
            read_conversation(path)
        except ValueError:
            raise ValueError(
                f"{path!r} exists and is not a saved conversation; choose another name."
            ) from None
    conversation = {
        "format": FORMAT,
        "model": model,
        "system": system,
        "options": options,
        "messages": _to_json(messages),
    }
    Path(path).write_text(json.dumps(conversation, ensure_ascii=False, indent=1), encoding="utf-8")


def read_conversation(path: str) -> dict[str, Any]:
    """What `write_conversation` wrote: model, system, options and messages.

    Raises:
        ValueError: the file is not a saved conversation.
        OSError: the file is missing.
    """
    try:
        conversation = json.loads(Path(path).read_text(encoding="utf-8"))
        if conversation["format"] != FORMAT:
            raise ValueError(f"unknown format {conversation['format']!r}")
        messages = _from_json(conversation["messages"])
        if not all({"role", "content"} <= set(message) for message in messages):
            raise ValueError("a message has no role or no content")
        return {
            "model": conversation["model"],
            "system": conversation["system"],
            "options": dict(conversation["options"]),
            "messages": messages,
        }
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ValueError(f"{path!r} holds a damaged picture.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path!r} is not a conversation saved by /save ({error}).") from None


def _to_json(part: Any) -> Any:
    """The same structure with every picture as the base64 of a PNG."""
    from PIL import Image

    from .media.image import to_rgb
    from .media.video import VideoFile

    if isinstance(part, VideoFile):
        return [_to_json(frame) for frame in part]
    if isinstance(part, Image.Image):
        buffer = io.BytesIO()
        to_rgb(part).save(buffer, format="PNG")
        return {"png": base64.b64encode(buffer.getvalue()).decode("ascii")}
    if isinstance(part, dict):
        return {key: _to_json(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_to_json(value) for value in part]
    return part


def _from_json(part: Any) -> Any:
    from PIL import Image

    if isinstance(part, dict) and set(part) == {"png"}:
        picture = Image.open(io.BytesIO(base64.b64decode(part["png"])))
        picture.load()
        return picture
    if isinstance(part, dict):
        return {key: _from_json(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_from_json(value) for value in part]
    return part
