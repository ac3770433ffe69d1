"""The small files of a model, read without loading it."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any


def locate(model: str, revision: str | None = None) -> str:
    """The folder or hub name that is meant, as `minicpmv.load` understands it.

    What needs no look-up is answered without importing torch.

    Raises:
        ValueError: there is no such model.
        OSError: the hub does not have it, or cannot be reached.
    """
    if revision is None and model == "nano":
        return str(files("minicpmv") / "nano")
    if revision is None and Path(model).is_dir():
        return model
    from minicpmv import loader

    return loader.locate(model, revision)


def find_file(location: str, name: str, revision: str | None = None) -> Path:
    """Where a file of a model lies: in its folder, or fetched from the hub.

    Args:
        location: what `locate` returned.

    Raises:
        OSError: there is no such file, or the hub cannot be reached.
    """
    folder = Path(location)
    if not folder.is_dir():
        return _fetch(location, name, revision)
    if not (folder / name).is_file():
        raise FileNotFoundError(f"The model folder {location!r} has no {name}.")
    return folder / name


def read_json(location: str, name: str, revision: str | None = None) -> dict[str, Any]:
    """The content of one of a model's JSON files; arguments as for `find_file`.

    Raises:
        ValueError: the file is not JSON.
        OSError: there is no such file, or the hub cannot be reached.
    """
    path = find_file(location, name, revision)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}. Download it again.") from None


def _fetch(repo: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except OSError as error:
        raise OSError(
            f"Model {repo!r} is no folder here, and its {name} could not be had from the "
            "Hugging Face hub. Check the name and the network."
        ) from error
