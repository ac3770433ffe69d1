"""What is in COCO's pictures: the objects of its annotations and of its captions.

The files have up to 600 MB, most of it outlines that nobody needs here, so they are read object by
object, and never whole.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from minicpmv.evaluate.metrics.judged.objects.words import class_of, mentions_in

_CHUNK = 1 << 20  # characters
_SPLITS = ("val2014", "train2014")
_WHERE = "images.cocodataset.org/annotations/annotations_trainval2014.zip"


def true_objects(folder: Path) -> dict[int, frozenset[str]]:
    """The classes in every picture: image id -> COCO's instances and what the five captions name.

    Args:
        folder: with instances_val2014.json and captions_val2014.json, or with a folder
            `annotations` that has them. Those of train2014 are read too where they are.

    Raises:
        OSError: a file is not there; ValueError: it is something else.
    """
    found: dict[int, set[str]] = defaultdict(set)
    for instances, captions in annotation_files(folder):
        names = {row["id"]: row["name"] for row in _objects(instances, "categories")}
        unknown = [name for name in names.values() if class_of(name) is None]
        if not names or unknown:
            raise ValueError(
                f"{instances} has not the categories of COCO: {unknown[:3] or 'none'}."
            )
        for row in _objects(instances, "annotations"):
            thing = class_of(names[row["category_id"]])
            assert thing is not None
            found[int(row["image_id"])].add(thing)
        for row in _objects(captions, "annotations"):
            found[int(row["image_id"])].update(each.object for each in mentions_in(row["caption"]))
    return {image: frozenset(things) for image, things in found.items()}


def annotation_files(folder: Path) -> list[tuple[Path, Path]]:
    """The files of instances and of captions, of every split that is there.

    Raises:
        OSError: one is missing.
    """
    if (folder / "annotations").is_dir():
        folder = folder / "annotations"
    found = []
    for split in _SPLITS:
        instances, captions = folder / f"instances_{split}.json", folder / f"captions_{split}.json"
        if split != _SPLITS[0] and not instances.exists() and not captions.exists():
            continue
        for file in (instances, captions):
            if not file.is_file():
                raise OSError(
                    f"{file} is not there. Object HalBench needs COCO's annotations: unpack "
                    f"{_WHERE} and give its folder."
                )
        found.append((instances, captions))
    return found


def _objects(file: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of one list of a JSON file.

    Raises:
        ValueError: the file has no such list, or ends within it.
    """
    with file.open(encoding="utf-8") as text:
        buffer, place = _skip_to(text, f'"{name}"'), 0
        decode = json.JSONDecoder().raw_decode
        while True:
            while place < len(buffer) and buffer[place] in " \t\r\n,:[":
                place += 1
            if buffer.startswith("]", place):
                return
            try:
                found, place = decode(buffer, place)
            except json.JSONDecodeError:
                more = text.read(_CHUNK)
                if not more:
                    raise ValueError(f"{file} has no list {name!r}, or ends within it.") from None
                buffer, place = buffer[place:] + more, 0
                continue
            yield found


def _skip_to(text: TextIO, key: str) -> str:
    """What follows a key in a file, as far as it is read."""
    buffer = ""
    while more := text.read(_CHUNK):
        buffer += more
        if (place := buffer.find(key)) >= 0:
            return buffer[place + len(key) :]
        buffer = buffer[-len(key) :]
    return buffer
