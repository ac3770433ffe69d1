"""Content parts to messages with pictures."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minicpmv.media.policy import MediaPolicy
from minicpmv.serve.content import MediaReader, policy_of
from minicpmv.serve.parameters import MediaOptions

from ..helpers.clips import clip, numbers_of
from ..helpers.media_requests import (
    blocks,
    colours,
    data_url,
    encoded,
    picture,
    read,
    read_messages,
    refused,
    settings,
    shown,
    video,
)
from ..helpers.media_server import served


@pytest.fixture
def reader() -> Iterator[MediaReader]:
    """One that may ask this machine, where the tests' own server is."""
    policy = MediaPolicy.remote(private_addresses=True, max_pixels=10_000, max_frames=8)
    reader = MediaReader(settings(), policy=policy)
    yield reader
    reader.close()


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


def test_all_pictures_of_a_request_together_have_a_limit() -> None:
    parts = [shown(picture((n, 0, 0), size=(100, 100))) for n in range(9)]
    read(parts[:8], reader=(reader := MediaReader(settings(max_images=9))))
    error = refused(parts, reader=reader)
    reader.close()
    assert "80,000 pixels in all" in error.message


@pytest.mark.parametrize(
    ("options", "colour"),
    [
        ({}, (255, 0, 0)),
        ({"format": "JPEG", "quality": 100}, (254, 0, 0)),
        ({"format": "JPEG", "mode": "L", "colour": 255}, (255, 255, 255)),
        ({"format": "JPEG", "mode": "CMYK", "colour": (0, 0, 0, 0)}, (255, 255, 255)),
        ({"format": "WEBP", "lossless": True}, (255, 0, 0)),
        ({"format": "GIF"}, (255, 0, 0)),
        ({"format": "GIF", "save_all": True}, (255, 0, 0)),
        ({"format": "BMP"}, (255, 0, 0)),
        ({"format": "TIFF"}, (255, 0, 0)),
        ({"format": "TIFF", "compression": "tiff_lzw"}, (255, 0, 0)),
        ({"mode": "1", "colour": 1}, (255, 255, 255)),
        ({"mode": "P", "colour": 0}, (0, 0, 0)),
        ({"mode": "I;16", "colour": 65535}, (255, 255, 255)),
        ({"mode": "LA", "colour": (0, 255)}, (0, 0, 0)),
        ({"mode": "RGBA", "colour": (0, 0, 0, 0)}, (255, 255, 255)),
        ({"format": "PPM"}, (255, 0, 0)),
        ({"format": "ICO", "sizes": [(8, 6)]}, (255, 0, 0)),
    ],
)
def test_every_usual_format_is_read(options: Any, colour: Any) -> None:
    found = read([shown(picture(**options))])
    assert colours(found) == [colour]
    assert found[0]["content"][0]["image"].mode == "RGB"


def test_a_format_that_few_send_is_refused() -> None:
    assert refused([shown(picture(format="PCX"))]).code == "invalid_image"


def test_the_first_picture_of_an_animation_is_shown() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        url = picture("red", format=kind, save_all=True, append_images=frames)
        assert read([shown(url)])[0]["content"][0]["image"].getpixel((0, 0))[0] > 250


def test_a_picture_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (block,) = blocks(read([shown(picture(format="JPEG", size=(8, 4), exif=exif))]))
    assert block["image"].size == (4, 8)


def test_frames_of_a_video_are_read_and_chosen(reader: MediaReader) -> None:
    file = clip(40, 10)
    url = data_url(file, "video/mp4")
    in_base64 = {"type": "input_video", "input_video": {"data": url.partition(",")[2]}}

    def numbers(part: Any, **kwargs: Any) -> list[int]:
        (block,) = blocks(read([part], reader=reader, **kwargs), "video")
        assert all(frame.mode == "RGB" for frame in block["video"])
        return numbers_of(block["video"])

    assert numbers(video(url)) == [0, 10, 20, 30]
    assert numbers(in_base64) == [0, 10, 20, 30]
    assert numbers({"type": "video_url", "video_url": url}) == [0, 10, 20, 30]
    assert numbers({"type": "input_video", "input_video": {"url": url}}) == [0, 10, 20, 30]
    assert numbers(video(url), options=MediaOptions(num_frames=2)) == [10, 30]
    assert numbers(video(url, fps=2), options=MediaOptions(num_frames=2)) == list(range(0, 40, 5))
    assert len(numbers(video(url, num_frames=8))) == 8
    with served(clip=file) as server:
        assert numbers(video(server.url("/clip"))) == [0, 10, 20, 30]


def test_a_video_over_a_limit_is_refused_with_its_flag(reader: MediaReader) -> None:
    url = data_url(clip(40, 10), "video/mp4")
    assert "--max-frames" in refused([video(url, num_frames=9)], reader=reader).message
    short = MediaReader(settings(max_video_seconds=3.0, max_video_mb=0.0001))
    assert "--max-video-mb" in refused([video(url)], reader=short).message
    short = MediaReader(settings(max_video_seconds=3.0))
    error = refused([video(url)], reader=short)
    assert "--max-video-seconds" in error.message
    assert error.param == "messages[0].content[0].video_url.url"


def test_a_video_may_be_an_animation_and_a_picture_may_not() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("lime", "blue")]
    url = picture("red", format="GIF", save_all=True, append_images=frames, duration=1000)
    (block,) = blocks(read([video(url)]), "video")
    assert [frame.getpixel((0, 0)) for frame in block["video"]] == [
        (255, 0, 0), (0, 255, 0), (0, 0, 255),
    ]  # fmt: skip
    assert "single picture" in refused([video(picture())]).message


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "video_url"}, "messages[0].content[0].video_url"),
        ({"type": "input_video", "input_video": {}}, "messages[0].content[0].input_video"),
        (
            {"type": "input_video", "input_video": {"url": "data:,", "data": "AA=="}},
            "messages[0].content[0].input_video",
        ),
        (
            {"type": "video_url", "video_url": "data:,", "input_video": {"url": "data:,"}},
            "messages[0].content[0]",
        ),
        (video("data:,", fps=1, num_frames=2), "messages[0].content[0].video_url.fps"),
    ],
)
def test_a_video_says_one_thing(part: Any, param: str) -> None:
    assert refused([part]).param == param


def test_pictures_are_fetched_once_a_request(reader: MediaReader) -> None:
    with served(red=encoded("red"), blue=encoded("blue")) as server:
        red, blue = shown(server.url("/red")), shown(server.url("/blue"))
        assert colours(read([red, blue, red], reader=reader)) == [
            (255, 0, 0), (0, 0, 255), (255, 0, 0),
        ]  # fmt: skip
        assert sorted(server.asked) == ["/blue", "/red"]
        read([red], reader=reader)
        assert len(server.asked) == 3  # it may be another one by now
        read([red | {"uuid": "r"}], reader=reader)
        read([red | {"uuid": "r"}], reader=reader)
        assert len(server.asked) == 4


def test_what_cannot_be_fetched_is_named(reader: MediaReader) -> None:
    with served(page=b"<html>") as server:
        error = refused([shown(server.url("/none"))], reader=reader)
        assert "404" in error.message
        assert error.code == "invalid_image"
        assert "a web page" in refused([shown(server.url("/page"))], reader=reader).message


def test_addresses_may_be_narrowed_or_refused() -> None:
    with served(red=encoded("red")) as server:
        url = server.url("/red", "localhost")
        hosts = {"allowed_media_domains": ("example.org",)}
        for changes, flag in (
            ({"media_urls": False}, "(--no-media-urls of this server)"),
            (hosts, "(--allowed-media-domains of this server)"),
            ({}, "a private network"),
        ):
            own = MediaReader(settings(**changes))
            error = refused([shown(url)], reader=own)
            assert error.code == "url_not_allowed"
            assert flag in error.message
            own.close()
        assert server.asked == []


def test_the_setting_that_lets_files_be_shown_is_named(reader: MediaReader) -> None:
    for address in ("file:///a.png", "FILE:/a.png"):
        error = refused([shown(address)], reader=reader)
        assert error.code == "url_not_allowed"
        assert "(--allowed-local-media-path of this server)" in error.message
    assert "of this server" not in refused([shown("a.png")], reader=reader).message


def test_files_are_read_from_the_allowed_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.png").write_bytes(encoded("blue"))
    (tmp_path / "secret.png").write_bytes(encoded("red"))
    (tmp_path / "open" / "link.png").symlink_to(tmp_path / "secret.png")
    own = MediaReader(settings(allowed_local_media_path=str(tmp_path / "open")))
    inside = (tmp_path / "open" / "a.png").as_uri()
    assert colours(read([shown(inside)], reader=own)) == [(0, 0, 255)]
    for name in ("secret.png", "open/link.png", "open/../secret.png"):
        url = f"file://{tmp_path}/{name}"
        assert refused([shown(url)], reader=own).code == "url_not_allowed"
        assert refused([shown(f"{tmp_path}/{name}")], reader=own).code == "url_not_allowed"
    os.mkfifo(tmp_path / "open" / "pipe.png")
    error = refused([shown((tmp_path / "open" / "pipe.png").as_uri())], reader=own)
    assert "no plain file" in error.message
    error = refused([shown((tmp_path / "open" / "none.png").as_uri())], reader=own)
    assert str(Path.cwd()) not in error.message
    own.close()


def test_the_policy_is_that_of_the_settings() -> None:
    policy = policy_of(settings(allowed_media_domains=("a.org",), max_pixels=5))
    assert policy.hosts == ("a.org",)
    assert policy.max_pixels == 5
    assert policy.schemes == ("data", "http", "https")
    assert not policy.private_addresses
    assert policy_of(settings(media_urls=False)).schemes == ("data",)


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
