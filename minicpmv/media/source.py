"""The bytes of an image or a video, from wherever the user keeps them."""

import base64
import binascii
import io
import os
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO, Literal

from .policy import current_policy

Kind = Literal["image", "video"]

_PREFIX_BYTES = 4096
_VIDEO_SIGNATURES = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG
    b"\x00\x00\x01\xb3",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),  # ASF
)
_PICTURE_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avif", b"avis")

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VIDEO_SUFFIXES = {
    ".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv",
    ".m2ts", ".mts", ".3gp", ".ogv", ".h264", ".hevc",
}  # fmt: skip


def open_source(source: Any, kind: Kind) -> tuple[BinaryIO, str]:
    """A binary file that can be read from its start, and its name for error messages.

    Args:
        source: a path (`str` or `Path`), `bytes`, a binary file, a `data:` URL, an `http(s)` or
            `file` URL, or base64 text.

    Raises:
        FileNotFoundError: the path does not exist.
        OSError: the file cannot be read or the URL not be fetched.
        ValueError: the text is damaged base64 or no data URL, the download is too large, or
            `source` is none of the above.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        name = f"The {kind} given as {len(source)} bytes"
        current_policy().check_size(len(source), name)
        return io.BytesIO(bytes(source)), name
    if isinstance(source, os.PathLike):
        return _open_path(Path(source), kind)
    if isinstance(source, str):
        return _open_text(source, kind)
    if hasattr(source, "read"):
        return _read_file(source, kind)
    article, also = ("An image", "a PIL image, ") if kind == "image" else ("A video", "frames, ")
    raise ValueError(
        f"{article} cannot be read from {type(source).__name__}. Give {also}a path, bytes, "
        "a URL, a file opened in binary mode, or an array."
    )


def is_video_file(source: Any) -> bool:
    """Whether a path, URL or bytes hold a video rather than a picture: by name, then by content."""
    if isinstance(source, bytes | bytearray | memoryview):
        return begins_like_video(bytes(source[:_PREFIX_BYTES]))
    if hasattr(source, "read") and source.seekable():
        place = source.tell()
        prefix = source.read(_PREFIX_BYTES)
        source.seek(place)
        return isinstance(prefix, bytes) and begins_like_video(prefix)
    if not isinstance(source, str | os.PathLike):
        return False
    text = os.fspath(source)
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    scheme = text[:11].lower()
    if scheme.startswith(("data:video/", "data:image/")):
        return scheme.startswith("data:video/")
    if scheme.startswith(("http://", "https://", "file://")):
        text = urllib.parse.urlsplit(text).path
    suffix = Path(text[-256:]).suffix.lower()
    if suffix in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
        return suffix in VIDEO_SUFFIXES
    if not may_open(text) or Path(text).is_dir():
        return False
    with open(text, "rb") as file:
        return begins_like_video(file.read(_PREFIX_BYTES))


def may_open(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there and the policy lets it be looked into."""
    try:
        current_policy().check_path(Path(path), "")
        return Path(path).exists()
    except (OSError, ValueError):
        return False  # refused, too long for a path, or with a null character


def begins_like_video(prefix: bytes) -> bool:
    """Whether the first bytes of a file are those of a video container."""
    if prefix[4:8] == b"ftyp":
        return prefix[8:12] not in _PICTURE_BRANDS
    return (
        prefix[4:8] in (b"moov", b"mdat", b"wide")  # QuickTime before it had ftyp
        or prefix.startswith(_VIDEO_SIGNATURES)
        or (prefix.startswith(b"RIFF") and prefix[8:12] == b"AVI ")
        or (len(prefix) > 376 and prefix[0] == prefix[188] == prefix[376] == 0x47)  # MPEG-TS
    )


def _open_text(source: str, kind: Kind) -> tuple[BinaryIO, str]:
    scheme = source[:8].lower()
    if scheme.startswith(("http://", "https://")):
        from .download import download  # httpx is slow to import, and seldom needed

        name = f"{kind.capitalize()} {source}"
        return io.BytesIO(download(source, name)), name
    if scheme.startswith("data:"):
        header, comma, payload = source.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            example = "image/png" if kind == "image" else "video/mp4"
            raise ValueError(
                f"A data URL for {_a(kind)} looks like 'data:{example};base64,...', "
                f"not {_short(source)!r}."
            )
        data = _decode_base64(payload, kind)
        return io.BytesIO(data), f"The {kind} in the data URL {header!r}"
    if scheme.startswith("file://"):
        url = urllib.parse.urlsplit(source)
        if url.netloc not in ("", "localhost"):
            raise ValueError(
                f"{kind.capitalize()} {_short(source)} names the computer {url.netloc!r}; the "
                "address of a file has three slashes: file:///folder/name."
            )
        return _open_path(Path(urllib.request.url2pathname(url.path)), kind)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        raise ValueError(
            f"{kind.capitalize()} {_short(source)} cannot be read: an address begins with http://, "
            "https://, file:// or data:. Download it yourself and give the file."
        )
    if not source.strip():
        raise ValueError(f"The path of {_a(kind)} is empty. Give the path of {_a(kind)} file.")
    if may_open(source):
        return _open_path(Path(source), kind)
    # Long text of this alphabet only is base64 whoever wrote it; a path would hold a dot.
    if len(source) >= 64 and re.fullmatch(r"[A-Za-z0-9+/\s]+={0,2}\s*", source):
        return io.BytesIO(_decode_base64(source, kind)), f"The {kind} in the base64 text"
    return _open_path(Path(_short(source).replace("\0", "?")), kind)


def _open_path(path: Path, kind: Kind) -> tuple[BinaryIO, str]:
    name = f"{kind.capitalize()} '{path}'"
    policy = current_policy()
    policy.check_path(path, name)
    if path.is_dir():
        raise IsADirectoryError(f"{name} is a directory. Name one {kind} file in it.")
    if policy.folders is not None and path.exists() and not path.is_file():
        raise OSError(f"{name} is no plain file. Name one {kind} file.")  # a pipe never ends
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name} does not exist (looked from {Path.cwd()}). Check the path."
        ) from None
    except OSError as error:
        raise OSError(f"{name} cannot be read: {error.strerror}.") from None
    try:
        policy.check_size(os.fstat(file.fileno()).st_size, name)
    except ValueError:
        file.close()
        raise
    return file, name


def _read_file(source: Any, kind: Kind) -> tuple[BinaryIO, str]:
    """A file that the caller opened; it stands afterwards where it stood, if it can."""
    given = getattr(source, "name", None)
    name = f"{kind.capitalize()} {given!r}" if given else f"The {kind} file given"
    if getattr(source, "closed", False):
        raise ValueError(f"{name} is closed. Open it again, or give its path.")
    if not getattr(source, "readable", lambda: True)():
        raise ValueError(f"{name} is open for writing only. Open it with open(path, 'rb').")
    can_seek = bool(getattr(source, "seekable", lambda: False)())
    place = source.tell() if can_seek else 0
    data = source.read()
    if not isinstance(data, bytes):
        raise ValueError(f"{name} gives text, not bytes. Open it with open(path, 'rb').")
    if not can_seek and not data:
        raise ValueError(
            f"{name} gives no bytes, and cannot be rewound: it was read before, or is empty. Give "
            "the bytes themselves, to show them more than once."
        )
    if can_seek and place and not data:
        # Written or read just before, and left at its end.
        source.seek(0)
        data = source.read()
    if can_seek:
        source.seek(place)
    current_policy().check_size(len(data), name)
    return io.BytesIO(data), name


def _decode_base64(text: str, kind: Kind) -> bytes:
    policy = current_policy()
    name = f"The {kind} given as base64"
    policy.check_scheme("data", name)
    policy.check_size(len(text) * 3 // 4 - 2, name)
    try:
        return base64.b64decode("".join(urllib.parse.unquote(text).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} cannot be decoded: {error}.") from None


def _a(kind: Kind) -> str:
    return "an image" if kind == "image" else "a video"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:60]}... ({len(text)} characters)"
