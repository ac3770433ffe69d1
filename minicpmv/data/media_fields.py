"""Pictures and videos as rows name them, read and written."""

import base64
import binascii
import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from .fields import RowError, check_keys, is_nothing, mapping, shown, text
from .messages import Picture

Kind = Literal["image", "video"]

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_URL = re.compile(r"(?:https?|file)://|data:", re.IGNORECASE)


class MediaReader:
    """Reads the pictures of rows.

    Args:
        folder: where relative paths begin.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def picture(self, value: Any, field: str, kind: Kind = "image", **settings: Any) -> Picture:
        """The picture or video that a value of a row names.

        Args:
            value: a path, a URL, a data URL, base64 text, bytes, `{"bytes", "path"}`, an image; of
                a video also a list of frames.
            field: where it stands.
            kind: "image" or "video".
            settings: other arguments of Picture.
        """
        if kind == "video" and isinstance(value, list | tuple):
            if not value:
                raise RowError(field, "missing_picture", "the video has no frames")
            frames = (self._source(v, f"{field}[{i}]", "image") for i, v in enumerate(value))
            return Picture(tuple(frames), kind, field=field, **settings)
        return Picture(self._source(value, field, kind), kind, field=field, **settings)

    def pictures(self, value: Any, field: str, kind: Kind = "image") -> list[Picture]:
        """The pictures of a column: a list, or a lone one."""
        if is_nothing(value):
            return []
        if not isinstance(value, list | tuple):
            return [self.picture(value, field, kind)]
        return [self.picture(item, f"{field}[{i}]", kind) for i, item in enumerate(value)]

    def _source(self, value: Any, field: str, kind: Kind) -> Any:
        if isinstance(value, str):
            return self._named(value, field, kind)
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(value, Image.Image):
            return value
        if value is None:
            raise RowError(field, "missing_picture", f"this is null; give the path of the {kind}")
        expected = 'a path, a URL, or {"bytes", "path"}'
        if not isinstance(value, Mapping):
            raise RowError(field, "wrong_type", f"this is {shown(value)}; expected {expected}")
        check_keys(value, ("bytes", "path"), field)
        data, path = value.get("bytes"), value.get("path")
        if not is_nothing(data) and data != b"":
            if isinstance(data, str):
                return _decoded(data, f"{field}.bytes")
            if not isinstance(data, bytes | bytearray | memoryview):
                raise RowError(
                    f"{field}.bytes", "wrong_type", f"this is {shown(data)}; expected bytes"
                )
            return bytes(data)
        if path is None:
            raise RowError(field, "missing_picture", "there are neither bytes nor a path")
        return self._named(text(path, f"{field}.path"), f"{field}.path", kind)

    def _named(self, name: str, field: str, kind: Kind) -> Any:
        text(name, field)
        if not name.strip():
            raise RowError(field, "missing_picture", f"the path of the {kind} is empty")
        if _URL.match(name):
            return name
        if "\0" in name:
            raise RowError(field, "missing_picture", "the path holds a null character")
        path = os.path.normpath(self.folder / name)
        if _BASE64.fullmatch(name) and not (len(name) < 1024 and os.path.exists(path)):
            return _decoded(name, field)
        return path


class MediaWriter:
    """Writes the pictures of rows.

    Args:
        out: the file that the rows go to. Paths below its folder are written relative to it;
            pictures that are no files are written into OUT.images.
    """

    def __init__(self, out: Path):
        self.folder = Path(os.path.abspath(out)).parent
        self.images = self.folder / f"{out.name}.images"
        self.created: list[Path] = []

    def take_back(self) -> None:
        """Remove the pictures that were written."""
        for path in self.created:
            path.unlink(missing_ok=True)
        if self.created and not any(self.images.iterdir()):
            self.images.rmdir()
        self.created.clear()

    def name(self, picture: Picture, field: str, *, keep_data_urls: bool = False) -> Any:
        """What a row says for a picture: a path or a URL; of a video also a list of paths."""
        if isinstance(picture.source, tuple):
            return [self._one(frame, "image", field, keep_data_urls) for frame in picture.source]
        return self._one(picture.source, picture.kind, field, keep_data_urls)

    def _one(self, source: Any, kind: Kind, field: str, keep_data_urls: bool) -> str:
        if isinstance(source, str):
            if source[:5].lower() == "data:":
                return source if keep_data_urls else self._stored_url(source, field)
            if _URL.match(source):
                return source
            return self._relative(source)
        if isinstance(source, os.PathLike):
            return self._relative(os.path.abspath(source))
        if isinstance(source, Image.Image):
            file = io.BytesIO()
            mode = source.mode if source.mode in ("RGB", "RGBA", "L", "LA", "P", "1") else "RGB"
            source.convert(mode).save(file, "PNG")
            return self._stored(file.getvalue(), "png")
        if isinstance(source, bytes | bytearray | memoryview):
            return self._stored(bytes(source), _suffix(bytes(source), kind))
        raise RowError(
            field, "wrong_type", f"a {kind} given as {type(source).__name__} cannot be written"
        )

    def _relative(self, path: str) -> str:
        absolute = os.path.abspath(path)
        try:
            inside = Path(absolute).relative_to(self.folder)
        except ValueError:
            return absolute
        name = inside.as_posix()
        # A name that would be read as something else stays absolute.
        return absolute if _URL.match(name) or _BASE64.fullmatch(name) else name

    def _stored(self, data: bytes, suffix: str) -> str:
        path = self.images / f"{hashlib.sha256(data).hexdigest()[:32]}.{suffix}"
        if not path.exists():
            self.images.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".part")
            beside.write_bytes(data)
            os.replace(beside, path)
            self.created.append(path)
        return self._relative(str(path))

    def _stored_url(self, url: str, field: str) -> str:
        header, comma, payload = url.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise RowError(field, "wrong_type", "a data URL looks like data:image/png;base64,...")
        data = _decoded(payload, field)
        return self._stored(data, _suffix(data, "image"))


def source_of_part(part: Mapping[str, Any], names: tuple[str, ...], field: str) -> tuple[Any, str]:
    """What a block of content shows, and where: the value of the one of `names` it has.

    Returns:
        (None, field) where the block has none.
    """
    found = [name for name in names if not is_nothing(part.get(name))]
    if len(found) > 1:
        raise RowError(
            f"{field}.{found[1]}", "unknown_field", f"{' and '.join(found)} are given; give one"
        )
    if not found:
        return None, field
    value, place = part[found[0]], f"{field}.{found[0]}"
    if found[0].endswith("_url") and isinstance(value, Mapping):
        inner = mapping(value, place, "url")
        check_keys(
            {k: v for k, v in inner.items() if (k, v) != ("detail", "auto")}, ("url",), place
        )
        if is_nothing(inner.get("url")):
            raise RowError(f"{place}.url", "missing_picture", "there is no url")
        return inner["url"], f"{place}.url"
    return value, place


def _decoded(encoded: str, field: str) -> bytes:
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(field, "unreadable_picture", f"damaged base64: {error}") from None
    if not data:
        raise RowError(field, "missing_picture", "the base64 text holds nothing")
    return data


def _suffix(data: bytes, kind: Kind) -> str:
    """The ending of a file with these bytes."""
    if kind == "video":
        return "mp4"
    known = {b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp", b"II*": "tif"}
    return next((suffix for start, suffix in known.items() if data.startswith(start)), "png")
