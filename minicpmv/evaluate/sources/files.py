"""Where the data of a page lies: a file or folder of the user's, $LMUData, the cache of the hub."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..page import Page, Source

_SUFFIXES = {
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".json": "jsonl",
}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Found:
    """Files of a page.

    Fields:
        source: how they are read.
        files: in order.
        folders: where pictures and videos are looked for that rows name.
        is_published: whether these are the files that the page names, as far as md5 and size
            say; the user's own rows are not.
    """

    source: Source
    files: tuple[Path, ...]
    folders: tuple[Path, ...] = field(default=())
    is_published: bool = True


def lmu_data() -> Path:
    """The folder of VLMEvalKit's TSV files: $LMUData, or LMUData in the home folder."""
    folder = os.environ.get("LMUData")  # noqa: SIM112, VLMEvalKit's own name
    return Path(folder or Path.home() / "LMUData").expanduser()


def of_user(page: Page, data: Path) -> Found:
    """The files of `page` in `data`, a file or a folder.

    A file takes the columns of the page's source of its kind, and so does a folder that
    `Dataset.save_to_disk` wrote; a file that has the published name must be the published one.

    Raises:
        OSError: there is no such file or folder, or the folder holds no file of the page.
        ValueError: no source is read from a file like this.
    """
    if data.is_file():
        kind = _SUFFIXES.get(data.suffix.lower())
        if kind is None:
            raise ValueError(f"--data {data}: expected a file ending in {', '.join(_SUFFIXES)}.")
        source = _of_kind(page, kind, data.name)
        return Found(source, (data,), _around(data, page), data.name == _name(source))
    if not data.is_dir():
        raise OSError(f"--data {data}: there is no such file or folder. {wanted(page)}")
    if (data / "state.json").is_file():
        return Found(_of_kind(page, "parquet", data.name), (data,), (data,), is_published=False)
    for source in page.sources:
        files = _matching(data, source)
        if files:
            folders = (data, *_around(files[0], page))
            return Found(source, files, tuple(dict.fromkeys(folders)))
    raise OSError(f"--data {data} holds no file of {page.name}. {wanted(page)}")


def _of_kind(page: Page, kind: str, name: str) -> Source:
    """The source that a file of `kind` is read by; of several, the one of that name."""
    sources = [source for source in page.sources if source.kind == kind]
    if kind in ("jsonl", "tsv"):
        sources += [each for each in page.sources if each.kind == "folder"]
    named = [source for source in sources if _name(source) == name]
    return (named or sources or [Source(kind=kind)])[0]  # type: ignore[arg-type]


def here(page: Page) -> Found | None:
    """The files of `page` in $LMUData; None where they are not there."""
    for source in page.sources:
        if source.kind == "parquet":
            continue
        for folder in (lmu_data(), lmu_data() / page.name):
            files = _matching(folder, source) if folder.is_dir() else ()
            if files:
                return Found(source, files, _around(files[0], page))
    return None


def _matching(folder: Path, source: Source) -> tuple[Path, ...]:
    """The files of `source` in `folder`; patterns may name folders within."""
    if not source.file:
        return ()
    for pattern in dict.fromkeys((source.file, _name(source))):
        files = tuple(sorted(each for each in folder.glob(pattern) if each.is_file()))
        if files:
            return files
    return ()


def _name(source: Source) -> str:
    return source.file.rpartition("/")[2]


def _around(file: Path, page: Page) -> tuple[Path, ...]:
    """Folders of pictures and videos that the rows of `file` may name."""
    folder = file.absolute().parent  # `.` would be its own parent
    named = (folder, folder / file.stem, folder / "images" / file.stem, folder / "images")
    return (*named, folder.parent, folder / page.name)


def check(found: Found) -> None:
    """See that published files are the published ones.

    Raises:
        ValueError: the size or the md5 of the file is another one.
    """
    source = found.source
    if not found.is_published or len(found.files) != 1 or not (source.md5 or source.size):
        return
    file = found.files[0]
    size = file.stat().st_size
    again = "Delete it to have it downloaded again; rows of your own need a file of another name."
    if source.size is not None and size != source.size:
        raise ValueError(
            f"{file} has {size} bytes; the published {_name(source)} has {source.size}. {again}"
        )
    if source.md5 and (digest := md5_of(file)) not in source.md5:
        raise ValueError(
            f"{file} has the md5 {digest}; the published {_name(source)} has "
            f"{' or '.join(source.md5)}. {again}"
        )


def md5_of(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def wanted(page: Page) -> str:
    """The exact files that `page` can be read from, and where they go, as a sentence."""
    return f"Wanted: {'; or '.join(map(_wanted, page.sources))}."


def _wanted(source: Source) -> str:
    name = _name(source)
    if source.url:
        digest = f", md5 {source.md5[-1]}" if source.md5 else ""
        return f"{name} in {lmu_data()} (from {source.url}{digest})"
    if source.repo:
        config = f", config {source.config}" if source.config else ""
        where = f"https://huggingface.co/datasets/{source.repo}{config}"
        return f"a folder with {source.file} as --data (from {where})"
    note = f" ({source.note.removesuffix('.')})" if source.note else ""
    return f"a folder with {name} as --data{note}"
