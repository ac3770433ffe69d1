"""The files of a checkpoint on disk: JSON, indices of weights, and what is damaged in them.

Imports neither torch nor transformers.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_POINTER = b"version https://git-lfs.github.com/spec/"
_LEAVES = re.compile(r"^[/\\~]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)")  # paths out of a folder
_NO_OBJECTS = {"chat_template.json"}  # may hold text


def check_whole(path: Path) -> None:
    """Refuse a git-lfs pointer in place of the file.

    Raises:
        OSError: git has left a pointer of git-lfs in its place.
    """
    with path.open("rb") as file:
        head = file.read(400)
    if head.startswith(_POINTER):
        size = re.search(rb"^size (\d+)", head, re.MULTILINE)
        found = f" of {int(size[1]):,} bytes" if size else ""
        raise OSError(
            f"{str(path)!r} is a git-lfs pointer, not the file{found} that it stands for. Run "
            '"git lfs pull" in its repository, or download the file again.'
        )


def file_at(path: Path) -> Path | None:
    """A file of a folder; None when there is nothing of that name.

    Raises:
        OSError: there is a folder in its place, or a link whose file is gone.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, not a file. Download it again.")
    if path.is_symlink() or path.exists():
        raise FileNotFoundError(
            f"{str(path)!r} is a link whose file is gone, or no file. Download it again."
        )
    return None


def read_json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        OSError: there is no such file, or a pointer of git-lfs in its place.
        ValueError: it is not JSON, or holds no object.
    """
    content = _parsed(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{str(path)!r} holds {type(content).__name__}, no JSON object. Download it again."
        )
    return content


def _parsed(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"The model folder {str(path.parent)!r} has no {path.name}.")
    check_whole(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}. Download it again.") from error


def read_index(path: Path) -> dict[str, str]:
    """The weight file of every tensor, by name, from an index of weight files.

    Raises:
        OSError: there is no such file, or a pointer of git-lfs in its place.
        ValueError: it is no index.
    """
    content = _parsed(path)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(map(_is_beside, names.values())):
        raise ValueError(f"{str(path)!r} is no index of weight files. Download it again.")
    return names


def _is_beside(name: Any) -> bool:
    """A file of the checkpoint's own folder, not one elsewhere on this disk."""
    return isinstance(name, str) and Path(name).name != "" and not _LEAVES.search(name)


def first_damage(paths: Iterable[Path], *, is_thorough: bool = True) -> Exception | None:
    """What is wrong with the first damaged file; None when all can be read.

    Every file is checked for pointers of git-lfs, and JSON is parsed. Vocabularies and weight
    files, which take longer, are read only when `is_thorough`.
    """
    for path in paths:
        try:
            _check(path, is_thorough)
        except (OSError, ValueError) as error:
            return error
    return None


def _check(path: Path, is_thorough: bool) -> None:
    file_at(path)
    check_whole(path)
    if path.name == "tokenizer.json":
        if is_thorough:
            check_tokenizer(path)
    elif path.name.endswith(".index.json"):
        read_index(path)
    elif path.suffix == ".json" and path.name not in _NO_OBJECTS:
        read_json_file(path)
    elif path.suffix == ".jinja":
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{str(path)!r} is not UTF-8 text: {error}. Download it again."
            ) from error
    elif path.suffix == ".safetensors" and is_thorough:
        from .headers import safetensors_headers

        safetensors_headers(path)
    elif path.suffix == ".bin" and is_thorough:
        from .weights import check_bin

        check_bin(path)


def check_tokenizer(path: Path) -> None:
    """Read a `tokenizer.json`.

    Raises:
        ValueError: it is damaged.
    """
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(
            f"{str(path)!r} is not a tokenizer file: {error}. Download it again."
        ) from error


def parse_size(size: int | str) -> int:
    """Bytes: a number, or text such as "5GB" and "500 MB" (powers of 1000; "GiB": of 1024).

    Raises:
        ValueError: it is no size above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?))?B?", str(size).strip().upper())
    power = " KMGT".index(found[2] or " ") if found else 0
    num_bytes = int(float(found[1]) * (1024 if found[3] else 1000) ** power) if found else 0
    if num_bytes < 1:
        raise ValueError(f"{size!r} is no size; expected bytes above 0, such as 2GB or 500MB.")
    return num_bytes
