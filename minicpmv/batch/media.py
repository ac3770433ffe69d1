"""Pictures and videos that a request names by a path, put into it as data URLs.

A request may be answered by a process that has other files, or must open none.
"""

import base64
import mimetypes
import re
import urllib.parse
from pathlib import Path
from typing import Any

from ..errors import short

_FIELDS = ("image_url", "video_url", "input_video")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters, since C: is a drive


class MediaError(ValueError):
    """A file that a row names cannot be had."""


def embed_files(body: dict[str, Any], folder: Path) -> None:
    """Replace, in the messages of a request, every path by the content of the file.

    Args:
        body: changed in place: `messages` or `input`, `image_url` and `video_url` in their parts.
        folder: where relative paths begin, and outside of which no file is opened.

    Raises:
        MediaError: a file is not there, is outside, or cannot be read.
    """
    for name in ("messages", "input"):
        if isinstance(body.get(name), list):
            body[name] = [
                _message(each, f"body.{name}[{n}]", folder) for n, each in enumerate(body[name])
            ]


def _message(message: Any, where: str, folder: Path) -> Any:
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    content = [
        _part(part, f"{where}.content[{n}]", folder) for n, part in enumerate(message["content"])
    ]
    return {**message, "content": content}


def _part(part: Any, where: str, folder: Path) -> Any:
    if not isinstance(part, dict):
        return part
    changed: dict[str, Any] = {}
    for name in _FIELDS:
        value = part.get(name)
        if isinstance(value, str):
            changed[name] = _data_url(value, f"{where}.{name}", folder)
        elif isinstance(value, dict) and isinstance(value.get("url"), str):
            changed[name] = {**value, "url": _data_url(value["url"], f"{where}.{name}.url", folder)}
    return {**part, **changed} if changed else part


def _data_url(address: str, where: str, folder: Path) -> str:
    """The file as a data URL; an address that is none of a file stays."""
    path = address
    is_url = address[:5].lower() == "file:"
    if not address or (not is_url and _SCHEME.match(address)):
        return address
    try:
        if is_url:
            path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
        file = (folder / path).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise MediaError(
                f"{where} is {short(address)}, which is outside of {folder.absolute()}. Name the "
                "folder that holds the files with --media-folder"
            )
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{where}: {short(path)} in {folder.absolute()}: {reason}") from error
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
