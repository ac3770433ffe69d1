"""The small files of a model, read without loading it, and whether the hub can be asked."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import Any

from minicpmv.versions import RELEASES


def locate(model: str) -> str:
    """The folder or hub name that is meant, as `minicpmv.load` understands it.

    What needs no look-up is answered without importing torch.

    Raises:
        ValueError: there is no such model.
    """
    if model == "nano":
        return str(files("minicpmv") / "nano")
    if Path(model).is_dir():
        return model
    use_cache_when_offline(model)
    from minicpmv import chat

    return chat.locate(model)


def use_cache_when_offline(model: str) -> None:
    """Without a network, let the hub's client look in its cache only; it would retry for minutes.

    To be called before that client is imported, which reads the environment once.
    """
    is_on_hub = model in RELEASES or (model.count("/") == 1 and not Path(model).exists())
    if not is_on_hub or os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE"):
        return
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=10):
            return
    except urllib.error.HTTPError:
        return  # it answered
    except OSError as error:
        if not isinstance(
            getattr(error, "reason", error), ssl.SSLError
        ):  # its client may know more
            print(f"{hub} cannot be reached; looking among files fetched before.", file=sys.stderr)
            os.environ["HF_HUB_OFFLINE"] = "1"


def find_file(model: str, name: str, revision: str | None = None) -> Path:
    """Where a file of a model lies: in its folder, or fetched from the hub.

    Raises:
        ValueError: there is no such model.
        OSError: it has no such file, or the hub cannot be reached.
    """
    location = locate(model)
    folder = Path(location)
    if not folder.is_dir():
        return _fetch(location, name, revision)
    if not (folder / name).is_file():
        raise FileNotFoundError(f"The model folder {location!r} has no {name}.")
    return folder / name


def read_json(model: str, name: str, revision: str | None = None) -> dict[str, Any]:
    """The content of one of a model's JSON files.

    Raises:
        ValueError: there is no such model, or the file is not JSON.
        OSError: it has no such file, or the hub cannot be reached.
    """
    path = find_file(model, name, revision)
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
