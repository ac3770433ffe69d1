"""An image from wherever the user keeps it: opened, upright, and as 8-bit RGB.

Unusual here: the pixel limit is that of the `MediaPolicy` in force and holds for what this file
opens, so that a photograph of 100 megapixels needs no change to `PIL.Image.MAX_IMAGE_PIXELS`, which
the rest of the program shares.
"""

import struct
import zlib
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from ..errors import AS_VIDEO
from .policy import MediaLimitError, current_policy, notice
from .source import begins_like_video, open_source

Compat = Literal["released"] | None
Array = np.ndarray[Any, np.dtype[Any]]

# Vector drawings that start another program, and formats Pillow knows by name only.
_SKIPPED_FORMATS = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR"}
_ORIENTATION = 0x0112  # Exif tag
# What Pillow's decoders raise on damaged data, found by feeding them damaged data.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, AttributeError,
    struct.error, zlib.error, OverflowError, RuntimeError, Image.DecompressionBombError,
)  # fmt: skip
_SIGNATURES = (
    (b"%PDF", "a PDF document; render the page you need as an image first"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"RIFF", "a RIFF file such as AVI or WAV"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)


def load_image(source: Any) -> Image.Image:
    """Open one image and decode its pixels; the mode stays as it is in the file.

    Args:
        source: a PIL image, a path (`str` or `Path`), `bytes`, a binary file, a `data:` URL, an
            `http(s)` or `file` URL, or base64 text.

    Raises:
        FileNotFoundError: the path does not exist.
        OSError: the file cannot be read or the URL not be fetched.
        ValueError: it is not an image, it is damaged, or has more pixels than the policy allows; or
            `source` is none of the above.

    Warns:
        UserWarning: it is an animation, or has several pages, and only one of them is shown.
    """
    if isinstance(source, Image.Image):
        return _decode(source, _name_of(source))
    file, name = open_source(source, "image")
    with file:
        image = _open(file, name)
    image.source_name = name  # type: ignore[attr-defined]  # for later error messages
    return image


def to_rgb(image: Image.Image, compat: Compat = None) -> Image.Image:
    """The image upright and as 8-bit RGB.

    Transparent pixels show white behind them, and the Exif orientation is applied. With
    `compat="released"` neither is done: transparency is dropped, as the released models were run.

    Raises:
        ValueError: the image has a mode or value range that has no obvious 8-bit form.
    """
    if compat == "released":
        return image if image.mode == "RGB" else image.convert("RGB")
    name = _name_of(image)
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bit(image, name).convert("RGB")
    if image.has_transparency_data or image.mode == "La":
        return _on_white(image)
    if image.mode == "LAB":
        raise ValueError(
            f"{name} is in the LAB colour space, which has no plain conversion to RGB. Save it as "
            "RGB first."
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
        ValueError: the shape, the kind or the range of the values fits no image.
    """
    is_tensor = not isinstance(array, np.ndarray)
    if is_tensor:
        if array.is_meta:
            raise ValueError("An image tensor is on the device meta, which holds no pixels.")
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
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"An image array has values of the type {array.dtype}; expected whole or floating "
            "point numbers."
        )
    if 0 in array.shape:
        raise ValueError(f"An image array of shape {array.shape} has no pixels.")
    return Image.fromarray(np.ascontiguousarray(_array_to_8_bit(array, "The image array")))


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
    if begins_like_video(prefix):
        raise ValueError(
            f"{name} holds {describe(prefix)}, not an image. Show it as a video: {AS_VIDEO}."
        )
    raise ValueError(
        f"{name} is not an image that can be read: it holds {describe(prefix)}. "
        "Give a PNG, JPEG, WebP, GIF, BMP or TIFF file."
    )


def identify_image(file: Any) -> Image.Image | None:
    """The picture or animation in a file, not yet decoded; None when it holds something else."""
    prefix = file.read(4096)
    return _identify(file, prefix)[0] if prefix else None


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
                if not _is_allowed(format_id):
                    continue
                file.seek(0)
                return factory(file, ""), None
            except DECODE_ERRORS:
                claimed = claimed or (format_id if accept and accepted else None)
    return None, claimed


def _is_allowed(format_id: str) -> bool:
    formats = current_policy().formats
    return formats is None or format_id in formats


def _decode(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    check_pixels(f"{name} has", width, height)
    if not width or not height:
        raise ValueError(f"{name} has {width} x {height} pixels, so there is nothing to look at.")
    try:
        _notice_others(image, name)
        image.load()
    except DECODE_ERRORS as error:
        kind = f"a {image.format} image" if image.format else "an image"
        raise ValueError(
            f"{name} is {kind} of {width} x {height} pixels, but its data is damaged or cut short "
            f"({error}). Save or download it again."
        ) from None
    return image


def check_pixels(what: str, width: int, height: int) -> None:
    """Raise ValueError for a picture, or frames, of more pixels than the policy allows."""
    limit = current_policy().max_pixels
    if width * height > limit:
        raise MediaLimitError(
            f"{what} {width} x {height} = {width * height:,} pixels; the limit is {limit:,}. "
            "Make it smaller first.",
            "max_pixels",
        )


def is_animated(image: Image.Image) -> bool:
    """Whether a file holds pictures that follow each other; the pages of a TIFF do not."""
    formats = ("GIF", "WEBP", "PNG", "AVIF")
    try:
        return image.format in formats and getattr(image, "n_frames", 1) > 1
    except DECODE_ERRORS:
        return True  # whoever reads the frames is told of the damage


def _notice_others(image: Image.Image, name: str) -> None:
    """Warn of further frames or pages, unless the caller has moved to one of them."""
    if (
        hasattr(image, "source_name")
        or not hasattr(image, "fp")  # a copy, or from another process: one picture without its file
        or image.format not in ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
        or image.tell()
    ):
        return
    count = getattr(image, "n_frames", 1)
    if count < 2:
        return
    if image.format == "TIFF":
        advice = f"{count} pages, and only the first is shown. Give each page as an image."
    else:
        advice = (
            f"{count} frames, and only the first is shown. Show it as a video to show them all: "
            f"{AS_VIDEO}."
        )
    notice(f"{name} has {advice}")


def describe(prefix: bytes) -> str:
    """What a file that begins so seems to hold, for an error message."""
    for signature, kind in _SIGNATURES:
        if prefix.startswith(signature):
            return kind
    if prefix[4:8] == b"ftyp":
        if prefix[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            return "HEIC data; `pip install pillow-heif` and register it, or save it as JPEG"
        return "an MP4 or QuickTime video"
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
    except DECODE_ERRORS:
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


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Grey images of 16 bit, 32 bit or floating point, scaled to 8 bit."""
    array = np.asarray(image)
    if image.mode == "I" and array.max() > 255:
        array = array.astype(np.uint16 if array.min() >= 0 and array.max() <= 65535 else np.int32)
    return Image.fromarray(_array_to_8_bit(array, name))


def _array_to_8_bit(array: Array, name: str) -> Array:
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
        f"{name} has pixel values from {low} to {high}; expected 0 to 255, or 0 to 1 in "
        "floating point, or 16-bit unsigned. Scale them first."
    )


def _name_of(image: Image.Image) -> str:
    if hasattr(image, "source_name"):
        return str(image.source_name)
    filename = getattr(image, "filename", "")
    return f"Image '{filename}'" if filename else "The PIL image given"
