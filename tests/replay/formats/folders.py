"""What all formats share: the checkpoint beside a recording, and files that nobody reads."""

from collections.abc import Collection, Iterator
from pathlib import Path

from ..recording import Case, unpacked

CHECKPOINTS = ("checkpoint", "ckpt")


def checkpoint_of(folder: Path, named: str | None = None) -> Path:
    """The model that a manifest names, or that stands beside the recording.

    Raises:
        OSError: there is none.
    """
    places = [folder / named] if named else []
    places += [folder.parent / name for name in CHECKPOINTS]
    for place in places:
        if (place / "config.json").is_file():
            return unpacked(place.resolve())
    looked = ", ".join(map(str, places))
    raise FileNotFoundError(
        f"No checkpoint for the recording {str(folder)!r}: looked for {looked}."
    )


def unread_files(folder: Path, known: Collection[str]) -> Iterator[Case]:
    """A case that fails, for the data files of a recording that its format does not know."""
    found = {
        file.relative_to(folder).as_posix()
        for pattern in ("*.json", "*.safetensors", "*.jsonl")
        for file in folder.rglob(pattern)
    }
    if unknown := sorted(found - set(known)):
        yield Case(
            model=folder.resolve().parent.name,
            kind="files",
            name="unread",
            folder=folder,
            checkpoint=folder,
            given={},
            expected=dict.fromkeys(unknown),
        )
