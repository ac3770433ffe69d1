"""The recorded checkpoints as GGUF files."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from minicpmv.export.gguf.run import Exported, export
from minicpmv.export.gguf.vision import TYPES
from minicpmv.gguf.container import GGUFFile

from ...helpers.golden import GOLDEN

FOLDERS = {
    "1b": GOLDEN / "minicpm-1b" / "ckpt",
    "2b": GOLDEN / "minicpm-2b" / "ckpt",
    "2b-128k": GOLDEN / "minicpm-2b-128k" / "ckpt",
    "moe-8x2b": GOLDEN / "minicpm-moe-8x2b" / "ckpt",
    "1.0": GOLDEN / "minicpm-v-1_0" / "checkpoint",
    "2.0": GOLDEN / "minicpm-v-2" / "checkpoint",
    "2.5": GOLDEN / "minicpm-llama3-v-2_5" / "checkpoint",
    "2.6": GOLDEN / "minicpm-v-2_6" / "checkpoint",
    "omnilmm-12b": GOLDEN / "omnilmm-12b" / "checkpoint",
    "nano": Path("nano"),
}
PICTURES = ("1.0", "2.0", "2.5", "2.6", "omnilmm-12b", "nano")


@cache
def exported(model: str, kind: str = "F32") -> Exported:
    """Both sides of a member in one type, exported once."""
    out = mkdtemp(prefix="minicpmv-gguf-")
    mmproj = kind if kind in TYPES else "F16"
    return export(FOLDERS[model], out, [kind], mmproj=mmproj, progress=False)


def language(model: str, kind: str = "F32") -> GGUFFile:
    return GGUFFile(exported(model, kind).language[kind])


def vision(model: str, kind: str = "F32") -> GGUFFile:
    path = exported(model, kind).mmproj
    assert path is not None
    return GGUFFile(path)
