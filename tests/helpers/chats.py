"""Chats of the tiny recorded checkpoints, in float32: pictures and text, all nine."""

from functools import lru_cache

from minicpmv import Chat, load

from .golden import CHECKPOINTS, GOLDEN
from .text_models import MODELS

FOLDERS = CHECKPOINTS | {name: GOLDEN / name / "ckpt" for name in MODELS}


@lru_cache
def loaded(name: str) -> Chat:
    return load(FOLDERS[name], device="cpu", dtype="float32")
