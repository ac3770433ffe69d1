"""Requests with pictures, and what the reader makes of them."""

import asyncio
import base64
import io
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from minicpmv.serve.content import MediaReader
from minicpmv.serve.errors import ApiError
from minicpmv.serve.schema.openai import ChatRequest


def settings(**changes: Any) -> Any:
    return SimpleNamespace(
        **{
            "max_images": 4,
            "max_pixels": 10_000,
            "max_body": 1_000_000,
            "max_video_mb": 8,
            "max_video_seconds": 10.0,
            "max_frames": 8,
            "media_urls": True,
            "allowed_media_domains": (),
            "allowed_local_media_path": None,
        }
        | changes
    )


def encoded(colour: Any = "red", size: tuple[int, int] = (8, 6), **options: Any) -> bytes:
    """The bytes of a picture of one colour, a PNG by default."""
    file = io.BytesIO()
    mode = options.pop("mode", "RGB")
    Image.new(mode, size, colour).save(file, **{"format": "PNG"} | options)
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(*args: Any, **options: Any) -> str:
    return data_url(encoded(*args, **options))


def shown(url: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, **fields}


def video(url: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url, **fields}}


def request(*contents: Any) -> ChatRequest:
    """A request whose user turns have these contents."""
    return ChatRequest(
        model="m", messages=[{"role": "user", "content": content} for content in contents]
    )


def read(*contents: Any, reader: MediaReader | None = None, **kwargs: Any) -> Any:
    return read_messages(request(*contents).messages, reader=reader, **kwargs)


def read_messages(messages: Any, reader: MediaReader | None = None, **kwargs: Any) -> Any:
    if isinstance(messages[0], dict):
        messages = ChatRequest(model="m", messages=messages).messages
    own = reader or MediaReader(settings())
    try:
        return asyncio.run(own.read(messages, **kwargs))
    finally:
        if reader is None:
            own.close()


def refused(*contents: Any, reader: MediaReader | None = None, **kwargs: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(*contents, reader=reader, **kwargs)
    assert caught.value.status == 400
    return caught.value


def blocks(messages: Any, kind: str = "image") -> list[Any]:
    return [
        block
        for message in messages
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == kind
    ]


def colours(messages: Any) -> list[Any]:
    return [block["image"].getpixel((0, 0)) for block in blocks(messages)]
