"""The requests of a batch: lines of OpenAI's batch files, or the pictures of a folder."""

import codecs
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import short
from .media import MediaError, embed_files

URLS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/decisions",
    "/v1/messages",
)
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Row:
    """One request.

    Fields:
        index: its place in the batch, from 0.
        custom_id: the user's name for it; None where the row has none that can be read.
        body: the JSON that is sent to `url`.
        fault: why it cannot be sent; its result says so.
    """

    index: int
    custom_id: str | None
    url: str = ""
    body: bytes = b""
    fault: str | None = None


@dataclass
class Overview:
    """What a first look at all rows finds.

    Fields:
        digest: equal for equal batches.
        models: names that the rows ask for, with the row that does so first.
        urls: routes that they are for.
    """

    count: int = 0
    digest: str = ""
    models: dict[str, int] = field(default_factory=dict)
    urls: set[str] = field(default_factory=set)


class Source(Protocol):
    """Where rows come from; they can be read again and again."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    def look(self, on_progress: Callable[[int, int], None]) -> Overview:
        """Count the rows; `on_progress` is told bytes or files that were looked at, and all.

        Raises:
            OSError, ValueError: there are none, or two of one name.
        """

    def rows(self) -> Iterator[Row]: ...

    def names(self) -> Iterator[str | None]:
        """The custom_id of each row."""


class RequestFile:
    """A file of lines `{"custom_id": ..., "method": "POST", "url": ..., "body": {...}}`.

    Args:
        path: UTF-8, one JSON object a line; blank lines do not count.
        media_folder: where relative paths of pictures and videos begin; files outside of it are not
            opened. By default the folder of `path`.
        model: for rows that name none.
    """

    def __init__(
        self, path: str | Path, media_folder: str | Path | None = None, model: str | None = None
    ):
        self.path = Path(path)
        self.media_folder = Path(media_folder) if media_folder is not None else self.path.parent
        self.model = model
        self._seen: tuple[int, int] | None = None  # what `look` has counted

    def _state(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns

    def _check_unchanged(self) -> None:
        if self._seen is not None and self._state() != self._seen:
            raise OSError(
                f"{self.path} was changed while its rows were answered, so results could belong to "
                "other rows. Bring back what it was, or begin anew with another OUT."
            )

    def look(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Overview:
        found = Overview()
        digest = hashlib.sha256(f"{self.media_folder.absolute()}\0{self.model}\0".encode())
        known: dict[bytes, int] = {}
        total, done = os.path.getsize(self.path), 0
        self._seen = self._state()
        for number, line in self._lines():
            digest.update(line)
            done += len(line)
            on_progress(min(done, total), total)
            request, _ = _parsed(line)
            if isinstance(request, Mapping):
                self._note(request, number, known, found)
            found.count += 1
        if not found.count:
            raise ValueError(f"{self.path} holds no rows; expected one JSON object a line.")
        if not known:
            raise ValueError(
                f"{self.path}: no line is a request with a custom_id. Expected lines as "
                '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
                '"body": {...}}.'
            )
        found.digest = digest.hexdigest()
        return found

    def _note(
        self, request: Mapping[str, Any], number: int, known: dict[bytes, int], found: Overview
    ) -> None:
        name, body = _name_of(request), request.get("body")
        if name is not None:
            key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if key in known:
                raise ValueError(
                    f"{self.path}, line {number}: custom_id {short(name)} is that of line "
                    f"{known[key]}, too. Give every row a name of its own."
                )
            known[key] = number
        if isinstance(body, Mapping):
            model = body.get("model", self.model)
            if isinstance(model, str):
                found.models.setdefault(model, number)
        if (url := request.get("url", URLS[0])) in URLS:
            found.urls.add(url)

    def rows(self) -> Iterator[Row]:
        self._check_unchanged()
        for index, (number, line) in enumerate(self._lines()):
            self._check_unchanged()
            yield self._row(index, number, line)
        self._check_unchanged()

    def names(self) -> Iterator[str | None]:
        for _, line in self._lines():
            request, _ = _parsed(line)
            yield _name_of(request) if isinstance(request, Mapping) else None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, with their numbers from 1."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise ValueError(f"{self.path} is UTF-16; expected UTF-8. Save it as that.")
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield number, line

    def _row(self, index: int, number: int, line: bytes) -> Row:
        where = f"line {number}"
        request, reason = _parsed(line)
        if reason:
            return Row(index, None, fault=f"{where} is not JSON: {reason}")
        if not isinstance(request, Mapping):
            return Row(index, None, fault=f"{where} is {short(request)}; expected an object")
        name = _name_of(request)
        if name is None:
            found = short(request["custom_id"]) if "custom_id" in request else "missing"
            return Row(index, None, fault=f"{where}: custom_id is {found}; expected text")
        url = request.get("url", URLS[0])
        body = request.get("body")
        fault = _fault_of(request, url, body)
        if fault is not None:
            return Row(index, name, fault=f"{where}: {fault}")
        assert isinstance(body, Mapping)
        body = dict(body)
        if self.model is not None:
            body.setdefault("model", self.model)
        try:
            embed_files(body, self.media_folder)
        except MediaError as error:
            return Row(index, name, url, fault=f"{where}: {error}")
        return Row(
            index, name, url, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        )


def _parsed(line: bytes) -> tuple[Any, str]:
    """The value of a line, and why it has none."""
    try:
        return json.loads(line.decode("utf-8")), ""  # of bytes json would guess other encodings
    except (ValueError, RecursionError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__


def _name_of(request: Mapping[str, Any]) -> str | None:
    name = request.get("custom_id")
    return name if isinstance(name, str) and name else None


def _fault_of(request: Mapping[str, Any], url: Any, body: Any) -> str | None:
    unknown = next(
        (key for key in request if key not in ("custom_id", "method", "url", "body")), ""
    )
    if unknown:
        return f"{unknown!r} is not a field of a row; known are custom_id, method, url, body"
    if request.get("method", "POST") != "POST":
        return f"method is {short(request['method'])}; expected 'POST'"
    if url not in URLS:
        return f"url is {short(url)}; known are {', '.join(URLS)}"
    if not isinstance(body, Mapping):
        found = "missing" if "body" not in request else short(body)
        return f"body is {found}; expected an object"
    if body.get("stream"):
        return "body.stream is set; results of a batch are whole. Leave it out"
    return None


class PictureFolder:
    """The pictures in a folder and below, by name; every one is asked the same.

    Args:
        body: of each request but its messages: `model`, `max_tokens` ...
    """

    def __init__(self, folder: str | Path, prompt: str, body: Mapping[str, Any]):
        self.path = self.folder = Path(folder)
        self.prompt = prompt
        self.body = dict(body)
        self._found: Sequence[str] | None = None

    def look(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Overview:
        digest = hashlib.sha256(json.dumps([self.prompt, self.body], sort_keys=True).encode())
        files = self._found = self._list()
        if not files:
            raise ValueError(
                f"{self.folder} holds no pictures. Expected files that end in "
                f"{', '.join(PICTURES)}."
            )
        for number, name in enumerate(files):
            status = os.stat(self.folder / name)
            digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
            on_progress(number + 1, len(files))
        return Overview(len(files), digest.hexdigest())

    def rows(self) -> Iterator[Row]:
        for index, name in enumerate(self._files()):
            picture = {"type": "image_url", "image_url": {"url": name}}
            content = [picture, {"type": "text", "text": self.prompt}]
            body = {**self.body, "messages": [{"role": "user", "content": content}]}
            try:
                embed_files(body, self.folder)
            except MediaError as error:
                yield Row(index, name, URLS[0], fault=str(error))
                continue
            yield Row(index, name, URLS[0], json.dumps(body, ensure_ascii=False).encode())

    def names(self) -> Iterator[str | None]:
        yield from self._files()

    def _files(self) -> Sequence[str]:
        """Those of the first look: pictures that come later have no place in the batch."""
        if self._found is None:
            self._found = self._list()
        return self._found

    def _list(self) -> Sequence[str]:
        found = []
        for folder, folders, names in os.walk(self.folder):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for name in names:
                if not name.startswith(".") and name.lower().endswith(PICTURES):
                    path = os.path.relpath(os.path.join(folder, name), self.folder)
                    found.append(Path(path).as_posix())
        return sorted(found)
