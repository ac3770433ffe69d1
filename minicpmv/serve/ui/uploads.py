"""What people attach: pictures, videos and documents, read from the folder of uploads alone.

A page is told paths by the browser. None is opened unless it lies in the folder where uploads are
kept, with symbolic links resolved.
"""

import base64
import hashlib
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...media.source import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from .words import PageError

Kind = Literal["picture", "video", "document"]

DOCUMENT_SUFFIXES = {".pdf"}
ACCEPTED = sorted(PICTURE_SUFFIXES | VIDEO_SUFFIXES | DOCUMENT_SUFFIXES)
MAX_PAGES = 16  # of one document in one message
PAGE_PX = 1792  # longer side of a page: four cells of the released models
_RANGE = re.compile(r"(\d+)(-(\d+)?)?", re.ASCII)


@dataclass(frozen=True)
class Attachment:
    """A file of a message, as `name` on the computer of the person who attached it."""

    path: str
    name: str
    kind: Kind


class Uploads:
    """The folder of uploads, and what may be read from it.

    Args:
        folder: where the page keeps what browsers send; its other folders are not read.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).resolve()
        self._lasting: set[Path] = set()

    def attach(self, path: str, name: str | None = None) -> Attachment:
        """A file that a browser named.

        Raises:
            PageError: it lies elsewhere, is gone, or is of no kind that is known.
        """
        file = self.check(path)
        name = name or file.name
        return Attachment(str(file), name, kind_of(name))

    def check(self, path: str) -> Path:
        """The path itself, once it is known to be an upload.

        Raises:
            PageError: it is none, or it is gone.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.folder):
            raise PageError("not_uploaded")
        if not file.is_file():
            raise PageError("upload_gone")
        return file

    def data_url(self, attachment: Attachment) -> str:
        """The file as a data URL.

        Raises:
            PageError: it is gone.
        """
        file = self.check(attachment.path)
        fallback = "video/mp4" if attachment.kind == "video" else "image/png"
        kind = mimetypes.guess_type(file.name)[0] or fallback
        return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"

    def keep(self, data: bytes, name: str, *, is_lasting: bool = False) -> Attachment:
        """Put a file of our own beside the uploads: a page of a document, an example.

        Args:
            is_lasting: `forget` leaves it.

        Raises:
            PageError: its name is of no kind that is known.
        """
        folder = self.folder / hashlib.sha256(data).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / _plain(name)
        file.write_bytes(data)
        if is_lasting:
            self._lasting.add(file)
        return Attachment(str(file), name, kind_of(name))

    def forget(self, before: float) -> int:
        """Delete the files last written before a time, in seconds since 1970; how many."""
        old = [
            file
            for file in self.folder.rglob("*")
            if file.is_file() and file not in self._lasting and file.stat().st_mtime < before
        ]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)


def kind_of(name: str) -> Kind:
    """What a file is, by its name.

    Raises:
        PageError: no kind has such a name.
    """
    suffix = Path(name).suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return "picture"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in DOCUMENT_SUFFIXES:
        return "document"
    raise PageError("kind_unknown", name=name)


def choose_pages(text: str, num_pages: int) -> list[int]:
    """Pages, counted from 1, in the order typed: `1-3, 7` or `5-`; empty for the first ones.

    At most `MAX_PAGES`; of an empty text, as many as that.

    Raises:
        PageError: the text cannot be read, or names pages that are not there, or too many.
    """
    if not text.strip():
        return list(range(1, min(num_pages, MAX_PAGES) + 1))
    pages: list[int] = []
    together = re.sub(r"\s*[-–]\s*", "-", text)
    for part in re.split(r"[,;，、；\s]+", together.strip(" ,;，、；")):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise PageError("pages_unreadable", pages=text)
        first = int(match[1])
        last = int(match[3] or num_pages) if match[2] else first
        if not 1 <= first <= last <= num_pages:
            raise PageError("pages_missing", pages=part, count=num_pages)
        pages += range(first, last + 1)
        if len(pages) > MAX_PAGES:
            raise PageError("pages_many", pages=text, most=MAX_PAGES)
    return list(dict.fromkeys(pages))


def render_pages(uploads: Uploads, document: Attachment, pages: str = "") -> list[Attachment]:
    """Pages of a PDF document as pictures whose longer side has `PAGE_PX` pixels.

    Raises:
        PageError: it cannot be read, or has no such pages.
    """
    import io

    import pypdfium2

    file = uploads.check(document.path)
    try:
        opened = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        key = "document_locked" if locked else "document_damaged"
        raise PageError(key, name=document.name) from error
    found = []
    stem = Path(document.name).stem
    try:
        for number in choose_pages(pages, len(opened)):
            page = opened[number - 1]
            scale = (PAGE_PX - 0.5) / max(*page.get_size(), 1.0)  # sizes are rounded up
            picture = page.render(scale=scale).to_pil().convert("RGB")
            data = io.BytesIO()
            picture.save(data, "PNG")
            found.append(uploads.keep(data.getvalue(), f"{stem} p{number}.png"))
    except pypdfium2.PdfiumError as error:
        raise PageError("document_damaged", name=document.name) from error
    finally:
        opened.close()
    return found


def expand(uploads: Uploads, files: Sequence[Attachment], pages: str = "") -> list[Attachment]:
    """The files with every document replaced by its pages."""
    found: list[Attachment] = []
    for file in files:
        found += render_pages(uploads, file, pages) if file.kind == "document" else [file]
    return found


def _plain(name: str) -> str:
    """A name that is safe in any folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "file"
