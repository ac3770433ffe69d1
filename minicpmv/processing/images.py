"""An image from wherever the user keeps it: opened, upright, and as 8-bit RGB.

Unusual here: the pixel limit is ours (`MAX_PIXELS`) and holds for what this file opens, so that a
photograph of 100 megapixels needs no change to `PIL.Image.MAX_IMAGE_PIXELS`, which the rest of the
program shares.
"""

import base64
import binascii
import io
import os
import re
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

Compat = Literal["released"] | None

# 20 000 x 20 000, 1.2 GB as RGB. What unpacks to more than this is a decompression bomb.
MAX_PIXELS = 400_000_000
MAX_DOWNLOAD_BYTES = 256 * 2**20
DOWNLOAD_TIMEOUT_S = 20  # without a byte
DOWNLOAD_DEADLINE_S = 120  # altogether

# Vector drawings that start another program, and formats Pillow knows by name only.
_SKIPPED_FORMATS = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR"}
_ORIENTATION = 0x0112  # Exif tag
# What Pillow's decoders raise on damaged data, found by feeding them damaged data.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, AttributeError,
    struct.error, zlib.error, OverflowError, Image.DecompressionBombError,
)  # fmt: skip
_SIGNATURES = (
    (b"%PDF", "a PDF document; render the page you need as an image first"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"RIFF", "a RIFF file such as AVI or WAV"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video; take frames from it first"),
)


def load_image(source: Any) -> Image.Image:
    """Open one image and decode its pixels; the mode stays as it is in the file.

    Args:
        source: a PIL image, a path (`str` or `Path`), `bytes`, a binary file, a `data:` URL, an
            `http(s)` or `file` URL, or base64 text.

    Raises:
        FileNotFoundError: the path does not exist.
        OSError: the file cannot be read or the URL not be fetched.
        ValueError: it is not an image, it is damaged, or it has more than `MAX_PIXELS` pixels.
        TypeError: `source` is none of the above.
    """
    if isinstance(source, Image.Image):
        return _decode(source, _name_of(source))
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        return _open(io.BytesIO(data), f"The image given as {len(data)} bytes")
    if isinstance(source, os.PathLike):
        return _open_path(Path(source))
    if isinstance(source, str):
        return _load_text(source)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        data = source.read()
        if not isinstance(data, bytes):
            raise TypeError(
                f"The file {name!r} gives text, not bytes. Open it with open(path, 'rb')."
            )
        return _open(io.BytesIO(data), f"Image {name!r}" if name else "The image file given")
    raise TypeError(
        f"An image cannot be read from {type(source).__name__}. Give a PIL image, a path, bytes, "
        "a URL, a file opened in binary mode, or an array."
    )


def to_rgb(image: Image.Image, compat: Compat = None) -> Image.Image:
    """The image upright and as 8-bit RGB.

    Transparent pixels show white behind them, and the Exif orientation is applied. With
    `compat="released"` neither is done: transparency is dropped, as the released models were run.

    Raises:
        ValueError: the image has a mode or value range that has no obvious 8-bit form.
    """
    if compat == "released":
        return image if image.mode == "RGB" else image.convert("RGB")
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bit(image).convert("RGB")
    if image.has_transparency_data or image.mode == "La":
        return _on_white(image)
    if image.mode == "LAB":
        raise ValueError(
            "An image in the LAB colour space has no plain conversion to RGB. Save it as RGB first."
        )
    return image.convert("RGB")


def image_from_array(array: Any, channels: Literal["first", "last"] | None = None) -> Image.Image:
    """A numpy array or torch tensor as a PIL image of mode L, LA, RGB or RGBA.

    Args:
        array: (height, width), (height, width, channels) or (channels, height, width). Values are 0
            to 255, or 0 to 1 when floating, or 16-bit unsigned.
        channels: where the channel axis is; None finds it by its length of 1 to 4. Where both axes
            fit, it is the last one of a numpy array and the first one of a tensor.

    Raises:
        ValueError: the shape or the value range fits no image.
    """
    is_tensor = not isinstance(array, np.ndarray)
    if is_tensor:
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3, 4), array.shape[-1] in (1, 2, 3, 4)
        if channels is None and (first or last):
            channels = "first" if first and (is_tensor or not last) else "last"
        if channels == "first":
            array = np.moveaxis(array, 0, -1)
        if array.shape[-1] == 1:
            array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (2, 3, 4)):
        raise ValueError(
            f"An array of shape {array.shape} is not one image; expected (height, width), "
            "(height, width, channels) or (channels, height, width) with 1 to 4 channels."
        )
    if 0 in array.shape:
        raise ValueError(f"An image array of shape {array.shape} has no pixels.")
    return Image.fromarray(np.ascontiguousarray(_array_to_8_bit(array)))


def _load_text(source: str) -> Image.Image:
    scheme = source[:8].lower()
    if scheme.startswith(("http://", "https://")):
        return _open(io.BytesIO(_download(source)), f"Image {source}")
    if scheme.startswith("data:"):
        header, comma, payload = source.partition(",")
        if not comma or not header.endswith(";base64"):
            raise ValueError(
                "A data URL for an image looks like 'data:image/png;base64,...', "
                f"not {_short(source)!r}."
            )
        return _open(io.BytesIO(_decode_base64(payload)), f"The image in the data URL {header!r}")
    if scheme.startswith("file://"):
        url = urllib.parse.urlsplit(source)
        return _open_path(Path(urllib.request.url2pathname(url.path)))
    if not source.strip():
        raise ValueError("The path of an image is empty. Give the path of an image file.")
    if _exists(source):
        return _open_path(Path(source))
    # Long text of this alphabet only is base64 whoever wrote it; a path would hold a dot.
    if len(source) >= 64 and re.fullmatch(r"[A-Za-z0-9+/\s]+={0,2}\s*", source):
        return _open(io.BytesIO(_decode_base64(source)), "The image in the base64 text")
    return _open_path(Path(_short(source).replace("\0", "?")))


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False  # too long for a path, or with a null character


def _open_path(path: Path) -> Image.Image:
    if path.is_dir():
        raise IsADirectoryError(f"Image '{path}' is a directory. Name one image file in it.")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Image '{path}' does not exist (looked from {Path.cwd()}). Check the path."
        ) from None
    except OSError as error:
        raise OSError(f"Image '{path}' cannot be read: {error.strerror}.") from None
    with file:
        return _open(file, f"Image '{path}'")


def _open(file: Any, name: str) -> Image.Image:
    """What `PIL.Image.open` does, with our pixel limit in place of its global one."""
    prefix = file.read(4096)
    if not prefix:
        raise ValueError(f"{name} is empty (0 bytes). Give a PNG, JPEG or WebP image.")
    image, claimed = _identify(file, prefix)
    if image is not None:
        return _decode(image, name)
    if claimed:
        raise ValueError(
            f"{name} begins like a {claimed} image, but its header is damaged or cut short. "
            "Save or download it again."
        )
    raise ValueError(
        f"{name} is not an image that can be read: it holds {_describe(prefix)}. "
        "Give a PNG, JPEG, WebP, GIF, BMP or TIFF file."
    )


def _identify(file: Any, prefix: bytes) -> tuple[Image.Image | None, str | None]:
    """The opened image, or None and the format whose signature the file bears."""
    claimed = None
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for format_id in Image.ID:
            factory, accept = Image.OPEN[format_id]
            # Without `accept` a plugin has to try; one that answers with text says why it cannot.
            accepted: bool | str = False
            try:
                accepted = True if accept is None else accept(prefix[:16])
                if format_id in _SKIPPED_FORMATS or not accepted or isinstance(accepted, str):
                    continue
                file.seek(0)
                return factory(file, ""), None
            except _DECODE_ERRORS:
                claimed = claimed or (format_id if accept and accepted else None)
    return None, claimed


def _decode(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} = {width * height:,} pixels; the limit is "
            f"{MAX_PIXELS:,}. Make it smaller first."
        )
    if not width or not height:
        raise ValueError(f"{name} has {width} x {height} pixels, so there is nothing to look at.")
    try:
        image.load()
    except _DECODE_ERRORS as error:
        kind = f"a {image.format} image" if image.format else "an image"
        raise ValueError(
            f"{name} is {kind} of {width} x {height} pixels, but its data is damaged or cut short "
            f"({error}). Save or download it again."
        ) from None
    return image


def _download(url: str) -> bytes:
    deadline = time.monotonic() + DOWNLOAD_DEADLINE_S
    data = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "minicpmv"})
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S) as response:
            while len(data) <= MAX_DOWNLOAD_BYTES and (chunk := response.read1(1 << 16)):
                data += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(data)} bytes after {DOWNLOAD_DEADLINE_S} s")
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(
                f"Image {url} cannot be fetched: the server answered {error.code} {error.reason}. "
                "Check the address."
            ) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(
            f"Image {url} cannot be fetched: {reason}. Check the address and the network."
        ) from None
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise ValueError(
            f"Image {url} is larger than {MAX_DOWNLOAD_BYTES >> 20} MiB. "
            "Download it yourself and give the file."
        )
    return bytes(data)


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(urllib.parse.unquote(text).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"The image given as base64 cannot be decoded: {error}.") from None


def _describe(prefix: bytes) -> str:
    for signature, kind in _SIGNATURES:
        if prefix.startswith(signature):
            return kind
    if prefix[4:8] == b"ftyp":
        if prefix[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            return "HEIC data; `pip install pillow-heif` and register it, or save it as JPEG"
        return "an MP4 or QuickTime video; take frames from it first"
    try:
        # A multi-byte character may be cut at the end of the prefix.
        text = prefix.decode("utf-8", errors="strict" if len(prefix) < 4096 else "ignore").lstrip()
    except UnicodeDecodeError:
        return f"unknown data that starts with {prefix[:8].hex(' ')}"
    if "\0" in text:
        return f"unknown data that starts with {prefix[:8].hex(' ')}"
    if text[:5].lower() in ("<!doc", "<html"):
        return "a web page"
    if "<svg" in text[:512].lower():
        return "an SVG drawing; save it as PNG first"
    return "text"


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return image  # damaged Exif data next to sound pixels
    if orientation in (None, 1):
        return image
    return ImageOps.exif_transpose(image)


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("LA") if image.mode == "La" else image
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image.convert("RGB"), mask=alpha)
    return white


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey images of 16 bit, 32 bit or floating point, scaled to 8 bit."""
    array = np.asarray(image)
    if image.mode == "I" and array.max() > 255:
        array = array.astype(np.uint16 if array.min() >= 0 and array.max() <= 65535 else np.int32)
    return Image.fromarray(_array_to_8_bit(array))


def _array_to_8_bit(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 -> 255
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(array * 255).astype(np.uint8)
    if low >= 0 and high <= 255:  # False for NaN
        return np.rint(array).astype(np.uint8)
    raise ValueError(
        f"Pixel values run from {low} to {high}; expected 0 to 255, or 0 to 1 in floating point, "
        "or 16-bit unsigned. Scale them first."
    )


def _name_of(image: Image.Image) -> str:
    filename = getattr(image, "filename", "")
    return f"Image '{filename}'" if filename else "The PIL image given"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:60]}... ({len(text)} characters)"
