"""Files that a command writes at its end: looked at before a model is loaded."""

from collections.abc import Callable
from pathlib import Path

from minicpmv.errors import OutputExistsError

from .usage import UsageError

_PNG, _HEAD = b"\x89PNG\r\n\x1a\n", 1 << 12  # its texts stand before its pixels


def check_file(flag: str, name: str | None) -> None:
    """A file that cannot be written is named before a model is loaded, not after its answers."""
    if name is None:
        return
    if not name:
        raise UsageError(f"{flag} is empty; name a file.")
    if Path(name).is_dir():
        raise OSError(f"{flag} {name!r} is a folder; name a file.")
    if not Path(name).parent.is_dir():
        raise OSError(f"{flag} {name!r}: there is no folder {str(Path(name).parent)!r}; make it.")


def check_replaced(name: str | None, what: str, is_it: Callable[[Path], bool]) -> None:
    """A file is replaced by what the same command makes anew, and by nothing else.

    Args:
        what: the command writes; is_it: whether a file is that.

    Raises:
        OutputExistsError: something else is there.
    """
    if name is not None and Path(name).is_file() and not is_it(Path(name)):
        raise OutputExistsError.of(name, f"is there already, and is no {what}")


def is_drawn_by(software: str) -> Callable[[Path], bool]:
    """Whether a picture is a PNG that names its program so."""

    def is_it(path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        return head.startswith(_PNG) and b"tEXtSoftware\0" + software.encode() in head

    return is_it
