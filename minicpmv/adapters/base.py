"""The model that an adapter was trained on: where it is, and what is said where it is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import first_line
from .folder import AdapterFiles


def adapter_base(adapter: str | Path, revision: str | None) -> tuple[str, str | None]:
    """The model that an adapter was trained on, and its revision.

    Raises:
        OSError: it was a folder that is not here.
    """
    files = AdapterFiles.find(adapter)
    base = files.base()
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise FileNotFoundError(_base_gone(files))
    return base, revision or files.revision()


@contextmanager
def naming_adapter(adapter: str | Path | None) -> Iterator[None]:
    """A block that looks for the model of an adapter; an error of the block names both.

    Args:
        adapter: None where the model was given by its own name.
    """
    try:
        yield
    except OSError as error:
        if adapter is None:
            raise
        raise OSError(f"{_base_gone(AdapterFiles.find(adapter))} {first_line(error)}") from error


def _base_gone(files: AdapterFiles) -> str:
    return (
        f"The adapter {files.name!r} was trained on {files.base()!r}, which is not here. Give the "
        "model as --model (model=...), and this as its adapter where it is not so already."
    )
