"""Content parts to messages with pictures."""

import asyncio
import base64
import io
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from minicpmv.serve.content import MediaReader
from minicpmv.serve.errors import ApiError
from minicpmv.serve.parameters import MediaOptions
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


def picture(colour: Any = "red", size: tuple[int, int] = (8, 6), **options: Any) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, **{"format": "PNG"} | options)
    return data_url(file.getvalue())


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shown(url: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, **fields}


def read(*contents: Any, reader: MediaReader | None = None, **kwargs: Any) -> Any:
    """The messages of a request whose user turns have these contents."""
    messages = [{"role": "user", "content": content} for content in contents]
    return read_messages(messages, reader=reader, **kwargs)


def read_messages(messages: Any, reader: MediaReader | None = None, **kwargs: Any) -> Any:
    body = ChatRequest(model="m", messages=messages)
    own = reader or MediaReader(settings())
    try:
        return asyncio.run(own.read(body.messages, **kwargs))
    finally:
        if reader is None:
            own.close()


def refused(*contents: Any, reader: MediaReader | None = None, **kwargs: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(*contents, reader=reader, **kwargs)
    assert caught.value.status == 400
    return caught.value


def colours(messages: Any) -> list[Any]:
    return [
        block["image"].getpixel((0, 0))
        for message in messages
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "image"
    ]


def test_text_stays_text() -> None:
    assert read("Hi") == [{"role": "user", "content": "Hi"}]
    assert read([{"type": "text", "text": "Hi"}]) == [{"role": "user", "content": "Hi"}]


def test_pictures_of_every_spelling_and_turn_are_read_in_order() -> None:
    red, green, blue = (picture(colour) for colour in ("red", "lime", "blue"))
    messages = [
        {
            "role": "user",
            "content": [
                shown(red),
                {"type": "image_url", "image_url": green},
                {"type": "text", "text": "?"},
            ],
        },
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": [{"type": "input_text", "text": "And?"},
                                     {"type": "input_image", "image_url": blue}]},
    ]  # fmt: skip
    found = read_messages(messages)
    assert colours(found) == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert [message["role"] for message in found] == ["user", "assistant", "user"]
    assert [block["type"] for block in found[2]["content"]] == ["text", "image"]


def test_low_detail_is_one_slice_and_an_explicit_number_wins() -> None:
    parts = [
        shown(picture()) | {"image_url": {"url": picture(), "detail": detail}}
        for detail in ("low", "high", "auto", "original")
    ]
    limits = [block.get("max_slice_nums") for block in read(parts)[0]["content"]]
    assert limits == [1, None, None, None]
    found = read(parts, options=MediaOptions(max_slice_nums=4))
    assert not any("max_slice_nums" in block for block in found[0]["content"])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,%%%", "invalid_image"),
        ("data:image/png;base64,", "invalid_image"),
        ("data:image/png,abc", "invalid_image"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"), "invalid_image"),
        (data_url(b"hello"), "invalid_image"),
        (picture()[:-40], "invalid_image"),
        (picture(size=(101, 100)), "invalid_image"),
        ("", "invalid_image"),
        ("ftp://example.org/a.png", "invalid_image"),
        ("/etc/passwd", "url_not_allowed"),
        ("file:///etc/passwd", "url_not_allowed"),
        ("http://127.0.0.1/a.png", "url_not_allowed"),
        ("http://[::1]/a.png", "url_not_allowed"),
    ],
)
def test_a_picture_that_cannot_or_may_not_be_read_is_named(url: str, code: str) -> None:
    error = refused([{"type": "text", "text": "?"}, shown(url)])
    assert error.code == code
    assert error.param == "messages[0].content[1].image_url.url"
    assert error.param in error.message


def test_one_picture_too_many_is_named() -> None:
    error = refused([shown(picture()) for _ in range(5)])
    assert error.param == "messages[0].content[4]"
    assert "--max-images" in error.message


def test_a_limit_is_named_by_its_flag() -> None:
    assert "--max-pixels" in refused([shown(picture(size=(101, 100)))]).message


def test_a_uuid_shows_the_picture_again_to_its_owner_alone() -> None:
    reader = MediaReader(settings())
    by_name = {"type": "image_url", "image_url": None, "uuid": "a"}
    assert refused([by_name], reader=reader, owner="me").code == "invalid_image"
    read([shown(picture("blue"), uuid="a")], reader=reader, owner="me")
    assert colours(read([by_name], reader=reader, owner="me")) == [(0, 0, 255)]
    assert "remembered" in refused([by_name], reader=reader, owner="you").message
    read([shown(picture("red"), uuid="a")], reader=reader, owner="me")
    assert colours(read([by_name], reader=reader, owner="me")) == [(255, 0, 0)]
    reader.close()


def test_a_part_that_shows_nothing_is_refused() -> None:
    assert "missing" in refused([{"type": "image_url"}]).message
