"""MiniCPM-V 4.0 and 4.5 are not ours: their remote code is found as if this package were not there.

They have the same `model_type` and the same names of classes as our releases. While one of them is
loaded, our names are taken out of transformers' tables.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import (
    REGISTERED_TOKENIZER_CLASSES,
    TOKENIZER_MAPPING_NAMES,
)
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from .releases import RELEASES

# What AutoConfig reads in place of the `model_type` of such a file, since it knows that as ours.
REMOTE_TYPE = "minicpmv-remote"

_lock = threading.RLock()
_ours: list[tuple[MutableMapping[Any, Any], Any, Any]] = []  # table, key, what stood there before


def is_newer(fields: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of a release that we do not have, and has its own code."""
    version = fields.get("version")
    return (
        fields.get("model_type") == "minicpmv"
        and isinstance(version, str | int | float)
        and str(version) not in RELEASES
        and "AutoConfig" in (fields.get("auto_map") or {})
    )


def remember_tables(before: str | None) -> None:
    """Remember what `auto.py` has registered.

    Args:
        before: of `TOKENIZER_MAPPING_NAMES["minicpmv"]`, before it was ours.
    """
    _ours.clear()
    found: list[tuple[Any, Any, Any]] = [
        (CONFIG_MAPPING._extra_content, "minicpmv", None),
        (TOKENIZER_MAPPING_NAMES, "minicpmv", before),
        # transformers would look for the class of that name in modules of these.
        (TOKENIZER_MAPPING_NAMES, "omnilmm", None),
        (TOKENIZER_MAPPING_NAMES, "minicpm", None),
    ]
    found += [
        (REGISTERED_TOKENIZER_CLASSES, name, None)
        for name, value in REGISTERED_TOKENIZER_CLASSES.items()
        if value.__module__.startswith("minicpmv.")
    ]
    for mapping in (PROCESSOR_MAPPING, IMAGE_PROCESSOR_MAPPING, VIDEO_PROCESSOR_MAPPING):
        found += [
            (mapping._extra_content, key, None)
            for key in mapping._extra_content
            if key.__module__.startswith("minicpmv.")
        ]
    _ours.extend(found)


@contextmanager
def our_names(*, hidden: bool) -> Iterator[None]:
    """Nobody else hides our names in here; with `hidden` they are hidden."""
    with _lock:
        kept = [(table, key, table[key]) for table, key, _ in _ours if key in table and hidden]
        for table, key, before in _ours if hidden else ():
            if before is None:
                table.pop(key, None)
            else:
                table[key] = before
        try:
            yield
        finally:
            for table, key, value in kept:
                table[key] = value


def leaving_newer(
    from_files: Callable[..., Any], read_config: Callable[[Any, Mapping[str, Any]], Any]
) -> Callable[..., Any]:
    """`from_pretrained` of an Auto class that finds what a newer release brings along.

    Args:
        from_files: the method.
        read_config: gives the `config.json` of a folder, from its name and the keywords.
    """

    def from_pretrained(name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        fields = read_config(name_or_path, kwargs)
        if fields.get("model_type") != "minicpmv":
            return from_files(name_or_path, *args, **kwargs)
        with our_names(hidden=is_newer(fields)):
            return from_files(name_or_path, *args, **kwargs)

    vars(from_pretrained).update(vars(from_files))  # what says that it is wrapped already
    from_pretrained._leaves_newer = True  # type: ignore[attr-defined]
    return from_pretrained
