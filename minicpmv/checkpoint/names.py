"""The names that a checkpoint goes by: a folder, "nano", a short name, a repository on the hub."""

from importlib.resources import files
from pathlib import Path

from ..releases import RELEASES, TEXT_RELEASES

_ROWS = RELEASES | TEXT_RELEASES
SHORT_NAMES = {name: row.repo_ids[0] for name, row in _ROWS.items()}
_REPO_IDS = {
    repo_id.partition("/")[2].lower(): repo_id for row in _ROWS.values() for repo_id in row.repo_ids
}
KNOWN = f"nano, {', '.join(SHORT_NAMES)}, and names on the hub such as openbmb/MiniCPM-V-2_6"


def location_of(name: str) -> str:
    """The folder, or the repository on the hub, that a name means.

    Raises:
        ValueError: the name cannot be a model.
    """
    if not name:
        raise ValueError("The name of the model is empty. Give a folder, a hub name, or nano.")
    if name == "nano":
        return str(files("minicpmv") / "nano")
    if Path(name).is_dir():
        return name
    if Path(name).exists():
        raise ValueError(f"Model {name!r} is a file; a model is a folder with config.json in it.")
    repo_id = SHORT_NAMES.get(name.lower(), _REPO_IDS.get(name.lower(), name))
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise ValueError(f"Model {name!r} is not known and no such folder exists. Known: {KNOWN}.")
    return repo_id
