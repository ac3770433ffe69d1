"""Examples of a whole file on disk, read by memory map: a run needs no more memory for more rows.

    FOLDER/prepared.json       what they were made from, how many there are, and the report
           examples.bin        one line of int64 per example, see `_COLUMNS`
           input_ids.bin  targets.bin  (int32)  types.bin  (uint8)   of all examples, end to end
           spans.bin           (message, start, end) int32
           shown.bin           the number of each picture that an example shows, int32
           pictures.jsonl      each distinct picture once; pictures.bin: where its line begins
           pictures/           pictures that came in memory

`prepared.py` makes the folder beside, and gives it its name when it is whole.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..media.image import to_rgb
from .encode import Array, Example
from .pictures import PictureRef

_COLUMNS = (
    "row",
    "part",
    "start",
    "length",
    "num_trained",
    "first_span",
    "num_spans",
    "first_shown",
    "num_shown",
    "num_cut",
)
_FILES: dict[str, type[np.generic]] = {
    "examples": np.int64,
    "input_ids": np.int32,
    "targets": np.int32,
    "types": np.uint8,
    "spans": np.int32,
    "shown": np.int32,
    "pictures": np.int64,
}


class Prepared:
    """The examples of a file, by number.

    Args:
        folder: written by `prepare`.

    Attributes:
        lengths: tokens of each example, int64.
        num_trained: trained tokens of each, int64.
        is_preference: whether examples 2i and 2i + 1 are the better and the worse answer of a pair.

    Raises:
        OSError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about: dict[str, Any] = json.loads(
            (self.folder / "prepared.json").read_text(encoding="utf-8")
        )
        self.is_preference: bool = self.about["is_preference"]
        self._arrays = {name: self._map(name, dtype) for name, dtype in _FILES.items()}
        self._table = self._arrays["examples"].reshape(-1, len(_COLUMNS))
        self.lengths: Array = np.array(self._table[:, _COLUMNS.index("length")])
        self.num_trained: Array = np.array(self._table[:, _COLUMNS.index("num_trained")])

    def __len__(self) -> int:
        return len(self._table)

    def __reduce__(self) -> tuple[type["Prepared"], tuple[Path]]:
        return Prepared, (self.folder,)  # workers map the files again

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Example:
        """The example of this number; its arrays are views of the files."""
        values = dict(zip(_COLUMNS, self._table[number].tolist(), strict=True))
        tokens = slice(values["start"], values["start"] + values["length"])
        first = values["first_shown"]
        shown = self._arrays["shown"][first : first + values["num_shown"]].tolist()
        first = 3 * values["first_span"]
        spans = self._arrays["spans"][first : first + 3 * values["num_spans"]].reshape(-1, 3)
        return Example(
            row=values["row"],
            part=values["part"],
            input_ids=self._arrays["input_ids"][tokens],
            targets=self._arrays["targets"][tokens],
            mm_token_type_ids=self._arrays["types"][tokens],
            pictures=tuple(self.picture(index) for index in shown),
            spans=tuple((int(m), int(start), int(end)) for m, start, end in spans),
            num_cut=values["num_cut"],
        )

    @property
    def num_pictures(self) -> int:
        """Distinct pictures, where another cut is another picture."""
        return len(self._arrays["pictures"])

    def picture(self, index: int) -> PictureRef:
        """One of the distinct pictures."""
        with (self.folder / "pictures.jsonl").open("rb") as file:
            file.seek(int(self._arrays["pictures"][index]))
            return self._ref(json.loads(file.readline()))

    def picture_files_changed(self) -> str | None:
        """The first picture file that is another one than when it was read, or is gone."""
        with (self.folder / "pictures.jsonl").open("rb") as file:
            for line in file:
                for path, *state in json.loads(line)["files"]:
                    if _state(path) != state:
                        return str(path)
        return None

    def _ref(self, values: Mapping[str, Any]) -> PictureRef:
        found = [str(self.folder / s[1]) if s[0] == "inside" else s[1] for s in values["source"]]
        return PictureRef(
            source=tuple(found) if values["is_list"] else found[0],
            kind=values["kind"],
            digest=bytes.fromhex(values["digest"]),
            sizes=tuple(map(tuple, values["sizes"])),
            max_slice_nums=values["max_slice_nums"],
            target_sizes=tuple(map(tuple, values["target_sizes"])),
            num_frames=values["num_frames"],
            fps=values["fps"],
        )

    def _map(self, name: str, dtype: type[np.generic]) -> Array:
        path = self.folder / f"{name}.bin"
        if not path.stat().st_size:
            return np.zeros(0, dtype)  # which cannot be mapped
        return np.memmap(path, dtype=dtype, mode="r")


class PreparedWriter:
    """Writes the files of `Prepared` example by example.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in _FILES}
        self._lines = (folder / "pictures.jsonl").open("wb")
        self._pictures: dict[bytes, int] = {}
        self._counts = dict.fromkeys(("tokens", "spans", "shown"), 0)

    @property
    def num_pictures(self) -> int:
        """Distinct pictures so far."""
        return len(self._pictures)

    def add(self, example: Example) -> None:
        """Write one example.

        Raises:
            OSError: the disk is full.
        """
        counts, length = self._counts, len(example.input_ids)
        shown = [self._picture(ref) for ref in example.pictures]
        self._write("input_ids", example.input_ids)
        self._write("targets", example.targets)
        self._write("types", example.mm_token_type_ids)
        self._write("spans", example.spans)
        self._write("shown", shown)
        values = (
            *(example.row, example.part, counts["tokens"], length, example.num_trained),
            *(counts["spans"], len(example.spans), counts["shown"], len(shown)),
            example.num_cut,
        )
        self._write("examples", values)
        counts["tokens"] += length
        counts["spans"] += len(example.spans)
        counts["shown"] += len(shown)

    def close(self) -> None:
        """Close the files."""
        for file in (*self._files.values(), self._lines):
            file.close()

    def _write(self, name: str, values: Any) -> None:
        self._files[name].write(np.asarray(values, dtype=_FILES[name]).tobytes())

    def _picture(self, ref: PictureRef) -> int:
        """The number of a picture, which is written when it is new."""
        is_list = isinstance(ref.source, tuple)
        sources: Sequence[Any] = ref.source if is_list else (ref.source,)
        settings = (ref.kind, ref.max_slice_nums, ref.target_sizes, ref.num_frames, ref.fps)
        names = [source for source in sources if isinstance(source, str | os.PathLike)]
        key = repr((ref.digest, settings, [str(name) for name in names])).encode()
        found = hashlib.blake2b(key, digest_size=16).digest()
        if found in self._pictures:
            return self._pictures[found]
        kept = [self._kept(source, ref, i) for i, source in enumerate(sources)]
        files = [[path, *state] for path in map(str, names) if (state := _state(path))]
        values = {
            "source": kept,
            "is_list": is_list,
            "kind": ref.kind,
            "digest": ref.digest.hex(),
            "sizes": ref.sizes,
            "max_slice_nums": ref.max_slice_nums,
            "target_sizes": ref.target_sizes,
            "num_frames": ref.num_frames,
            "fps": ref.fps,
            "files": files,
        }
        self._write("pictures", [self._lines.tell()])
        self._lines.write(json.dumps(values).encode() + b"\n")
        self._pictures[found] = len(self._pictures)
        return self._pictures[found]

    def _kept(self, source: Any, ref: PictureRef, index: int) -> tuple[str, str]:
        """How a picture is found again; one in memory is written."""
        if isinstance(source, str | os.PathLike):
            return "name", str(source)
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        path = folder / f"{ref.digest.hex()}-{index}"
        if isinstance(source, Image.Image):
            buffer = io.BytesIO()
            to_rgb(source).save(buffer, "PNG")
            source = buffer.getvalue()
        path.write_bytes(bytes(source))
        return "inside", f"pictures/{path.name}"


def _state(path: str) -> list[int] | None:
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # a URL, data in base64, or gone
        return None
    return [state.st_mtime_ns, state.st_size]
