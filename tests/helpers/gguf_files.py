"""GGUF files as other programs write them, made of ours."""

from collections.abc import Collection
from pathlib import Path

from minicpmv.gguf.container import GGUFFile, Outline, Typed, write_gguf

_SWAPPED = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}


def as_released(path: Path, out: Path, without: Collection[str] = ()) -> Path:
    """The file without what only this package writes; a vision side with the names of llama.cpp's
    first converter, which called the two matrices of an MLP the other way round."""
    file = GGUFFile(path)
    metadata = {
        key: Typed(_plain(value), file.types[key].strip("[]"))
        for key, value in file.metadata.items()
        if not key.startswith("minicpmv.") and key not in without
    }
    names = {_renamed(name): name for name in file.tensors if not name.startswith("minicpmv.")}
    own_table = "minicpmv.position_embd.weight"
    if own_table in file.tensors:
        names["v.position_embd.weight"] = own_table
    outlines = [
        Outline(target, file.info(name).shape, file.info(name).type)
        for target, name in names.items()
    ]
    write_gguf(out, metadata, outlines, lambda o: file.blocks(names[o.name]), progress=False)
    return out


def _renamed(name: str) -> str:
    parts = name.split(".")
    if name.startswith("v.blk."):
        parts[3] = _SWAPPED.get(parts[3], parts[3])
    return ".".join(parts)


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else value
