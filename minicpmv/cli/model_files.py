"""The small files of a model, read without loading it."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any


def find_file(model: str, name: str, revision: str | None = None) -> Path:
    """Where a file of a model lies: `nano`, a folder, or a repository on the hub (then fetched).

    Raises:
        OSError: there is no such model, or it has no such file.
    """
    folder = nano_folder() if model == "nano" else Path(model).expanduser()
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"The model folder {str(folder)!r} has no {name}.")
        return folder / name
    return _fetch(model, name, revision)


def read_json(model: str, name: str, revision: str | None = None) -> dict[str, Any]:
    """The content of one of a model's JSON files.

    Raises:
        OSError: there is no such model, or it has no such file.
        ValueError: the file is not JSON.
    """
    path = find_file(model, name, revision)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None


def nano_folder() -> Path:
    """The model in the package."""
    return Path(str(files("minicpmv") / "nano"))


def _fetch(model: str, name: str, revision: str | None) -> Path:
    known = "Give a folder, a name on the hub such as openbmb/MiniCPM-V-2_6, or nano."
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise FileNotFoundError(f"There is no model folder {model!r}. {known}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except (HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"There is no folder {model!r}, and the hub gave no {name} under that name "
            f"({type(error).__name__}). {known}"
        ) from error
