"""Features of a frozen vision side, computed once and kept on disk.

With tower and resampler frozen a slice is its visual tokens ("image_features"); with the tower
alone frozen, which is the default, it is what the tower gave for its patches ("patch_features"),
and only the resampler is computed in training. A tower that is trained has no store.

    FOLDER/<hash of key>/key.json           what the features depend on: weights, dtype, kind
                         shard-R-NNN.bin    numbers of whole pictures, one after another, of rank R
                         index-R.jsonl      one line per picture, written after its numbers

So a run that is killed leaves features that can be read, and the next one computes the others.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..data.pictures import PictureReader, PictureRef
    from ..data.prepared import Prepared

Kind = Literal["image_features", "patch_features"]

SHARD_BYTES = 1 << 30


class FeatureStore:
    """Features by picture.

    Args:
        folder: parts of it are made when the first features come.
        key: what all features depend on, see `feature_key`; features under another key are not
            seen.
        max_bytes: more than that is not written.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, Any], max_bytes: int = 50 << 30):
        self.key = dict(key)
        self.kind: Kind = self.key["kind"]
        self.dtype: torch.dtype = getattr(torch, self.key["dtype"])
        self.max_bytes = max_bytes
        text = json.dumps(self.key, sort_keys=True)
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._places: dict[str, tuple[str, int]] = {}  # picture -> shard, first byte
        self._read: dict[Path, int] = {}  # index -> bytes that are known
        self._maps: dict[str, np.ndarray] = {}
        self._written: tuple[int, int] | None = None  # rank, number of the shard
        self.refresh()

    def refresh(self) -> None:
        """See what other processes have written."""
        found = []
        for path in sorted(self.folder.glob("index-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # being written, or cut by a kill
                    found.append(json.loads(line))
                    self._read[path] = self._read.get(path, 0) + len(line)
        sizes = {path.name: path.stat().st_size for path in self.folder.glob("shard-*.bin")}
        for entry in found:
            if entry["end"] <= sizes.get(entry["shard"], 0):
                self._places[entry["picture"]] = entry["shard"], entry["start"]

    def has(self, ref: "PictureRef", longest: int | None = None) -> bool:
        return self._name(ref, longest) in self._places

    def missing(
        self, refs: Iterable["PictureRef"], longest: int | None = None
    ) -> list["PictureRef"]:
        """Those whose features are not there, each once."""
        found = {self._name(ref, longest): ref for ref in refs if not self.has(ref, longest)}
        return list(found.values())

    def bytes_of(self, ref: "PictureRef") -> int:
        """Bytes that the features of one picture take."""
        return self._num_rows(ref) * self.key["width"] * self.dtype.itemsize

    def put(
        self, ref: "PictureRef", features: Tensor, longest: int | None = None, rank: int = 0
    ) -> None:
        """Write one picture's features.

        Args:
            features: (num_slices, query_num, hidden), or (num_slices, max_patches, vision hidden);
                rows past a slice's own patches are left out.
            longest: where padding takes part in attention (release 2.5), the most patches that a
                slice of the conversation has.
            rank: of this process; each writes files of its own.

        Raises:
            OSError: the disk is full.
        """
        name = self._name(ref, longest)
        rows = features.detach().to("cpu", self.dtype)
        if self.kind == "patch_features":
            sizes = _num_patches(ref)
            rows = torch.cat([row[:n] for row, n in zip(rows, sizes, strict=True)])
        data = rows.contiguous().view(torch.uint8).numpy().tobytes()
        assert len(data) == self.bytes_of(ref), (name, tuple(features.shape))
        shard = self._shard(rank, len(data))
        with (self.folder / shard).open("ab") as file:
            start = file.tell()
            file.write(data)
        self._maps.pop(shard, None)
        index = self.folder / f"index-{rank}.jsonl"
        entry = {"picture": name, "shard": shard, "start": start, "end": start + len(data)}
        line = json.dumps(entry) + "\n"
        with index.open("ab") as file:
            file.write(line.encode())
            self._read[index] = file.tell()
        self._places[name] = shard, start

    def get(self, ref: "PictureRef", longest: int | None = None) -> Tensor:
        """What was put, slices padded with zeros to the longest of the picture.

        Raises:
            ValueError: it is not there.
        """
        name = self._name(ref, longest)
        if name not in self._places:
            self.refresh()
        if name not in self._places:
            raise ValueError(
                f"The features of a picture ({ref.source}) are not in {self.folder}. Prepare the "
                "data again, or train with --no-feature-cache."
            )
        shard, start = self._places[name]
        end = start + self.bytes_of(ref)
        data = self._map(shard, end)[start:end]
        rows = torch.from_numpy(np.array(data)).view(self.dtype).view(-1, self.key["width"])
        if self.kind == "image_features":
            return rows.view(len(ref.target_sizes), -1, self.key["width"])
        parts = rows.split(_num_patches(ref))
        return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)

    def _map(self, shard: str, end: int) -> np.ndarray:
        """The bytes of a shard, at least up to `end`."""
        data = self._maps.get(shard)
        if data is None or len(data) < end:
            data = np.memmap(self.folder / shard, dtype=np.uint8, mode="r")
            self._maps[shard] = data
        return data

    def _num_rows(self, ref: "PictureRef") -> int:
        if self.kind == "patch_features":
            return sum(_num_patches(ref))
        return len(ref.target_sizes) * int(self.key["query_num"])

    def _name(self, ref: "PictureRef", longest: int | None) -> str:
        if not self.key["follows_longest"]:
            longest = None
        cut = json.dumps([ref.kind, [list(size) for size in ref.target_sizes], longest])
        return hashlib.sha256(ref.digest + cut.encode()).hexdigest()[:32]

    def _shard(self, rank: int, num_bytes: int) -> str:
        """The name of the file that takes the next picture."""
        if self._written is None or self._written[0] != rank:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "key.json").write_text(json.dumps(self.key, indent=2) + "\n")
            self._written = rank, max(0, len(list(self.folder.glob(f"shard-{rank}-*.bin"))) - 1)
            _drop_half_line(self.folder / f"index-{rank}.jsonl")
        path = self.folder / f"shard-{rank}-{self._written[1]:03d}.bin"
        if path.exists() and path.stat().st_size + num_bytes > SHARD_BYTES:
            self._written = rank, self._written[1] + 1
        return f"shard-{rank}-{self._written[1]:03d}.bin"


def feature_key(model: Any, kind: Kind) -> dict[str, Any]:
    """What features of `model` depend on: every byte of the frozen parts, and their form."""
    inner = _vision_side(model)
    config = inner.config
    parts = {"vision_tower": inner.vision_tower}
    if kind == "image_features":
        parts["resampler"] = inner.resampler
    return {
        "format": 1,
        "kind": kind,
        "release": config.version,
        "weights": _digest(parts),
        "dtype": str(next(inner.vision_tower.parameters()).dtype).removeprefix("torch."),
        "width": (
            config.text_config if kind == "image_features" else config.vision_config
        ).hidden_size,
        "query_num": config.query_num,
        "follows_longest": bool(config.vision_config.attend_padding),
    }


def open_store(
    folder: str | Path, model: Any, prepared: "Prepared", max_bytes: int = 50 << 30
) -> tuple[FeatureStore | None, str]:
    """The store for training `model` on `prepared`, by what of the model is frozen.

    Returns:
        The store, or None and why there is none, one clause.
    """
    inner = _vision_side(model)
    if inner is None:
        return None, "the model takes no pictures"
    if any(p.requires_grad for p in inner.vision_tower.parameters()):
        return None, "the vision tower is trained"
    is_frozen = not any(p.requires_grad for p in inner.resampler.parameters())
    kind: Kind = "image_features" if is_frozen else "patch_features"
    store = FeatureStore(folder, feature_key(model, kind), max_bytes)
    pictures = list(distinct_pictures(prepared, follows_longest=store.key["follows_longest"]))
    if not pictures:
        return None, "the data has no pictures"
    needed = sum(store.bytes_of(ref) for ref, _ in pictures)
    if needed > max_bytes:
        return None, (
            f"features of {len(pictures)} pictures take {needed / 1e9:.1f} GB, more than the "
            f"{max_bytes / 1e9:.1f} GB of --feature-cache-gb"
        )
    return store, ""


def distinct_pictures(
    prepared: "Prepared", *, follows_longest: bool
) -> Iterator[tuple["PictureRef", int | None]]:
    """Every picture of the data once, with the most patches that a slice of its conversation has
    where features follow that."""
    seen = set()
    for number in range(len(prepared)):
        refs = prepared[number].pictures
        longest = longest_slice(refs) if follows_longest and refs else None
        for ref in refs:
            name = ref.digest, ref.kind, tuple(map(tuple, ref.target_sizes)), longest
            if name not in seen:
                seen.add(name)
                yield ref, longest


def longest_slice(refs: Sequence["PictureRef"]) -> int:
    """The most patches that a slice of these pictures has."""
    return max(max(_num_patches(ref)) for ref in refs)


@torch.no_grad()
def fill(
    store: FeatureStore,
    model: Any,
    processor: Any,
    prepared: "Prepared",
    reader: "PictureReader",
    *,
    rank: int = 0,
    count: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Compute what is missing, pictures of like size together. Each of `count` processes takes its
    share, told by the pictures' digests; when all have done, each calls `store.refresh()`.

    Args:
        on_progress: called with the number of pictures done, and of all.

    Returns:
        How many pictures were encoded.
    """
    inner = _vision_side(model)
    was_training = inner.training
    wanted = [
        (ref, longest)
        for ref, longest in distinct_pictures(
            prepared, follows_longest=store.key["follows_longest"]
        )
        if int.from_bytes(ref.digest[:8], "big") % count == rank and not store.has(ref, longest)
    ]
    wanted.sort(key=lambda item: max(_num_patches(item[0])), reverse=True)
    inner.eval()
    done = 0
    try:
        for group in _groups(wanted, inner.config.vision_config.batch_size):
            _encode(store, inner, processor, reader, group, rank)
            done += len(group)
            if on_progress is not None:
                on_progress(done, len(wanted))
    finally:
        inner.train(was_training)
    return done


def _encode(
    store: FeatureStore, inner: Any, processor: Any, reader: Any, group: list[Any], rank: int
) -> None:
    device = next(inner.vision_tower.parameters()).device
    pixel_values, target_sizes = reader.pixels(processor, [ref for ref, _ in group])
    counts = [len(ref.target_sizes) for ref, _ in group]
    row_lengths = None
    if store.key["follows_longest"]:
        row_lengths = torch.tensor([longest for _, longest in group]).repeat_interleave(
            torch.tensor(counts)
        )
    inputs = pixel_values.to(device), target_sizes.to(device)
    if store.kind == "image_features":
        features = inner.get_image_features(
            *inputs, row_lengths=row_lengths, return_dict=True
        ).pooler_output
    else:
        features = inner.get_patch_features(*inputs, row_lengths=row_lengths)
    for (ref, longest), part in zip(group, features.split(counts), strict=True):
        store.put(ref, part, longest, rank)


def _groups(pictures: list[Any], num_slices: int) -> Iterator[list[Any]]:
    """Pictures in order, together of about `num_slices` slices."""
    group: list[Any] = []
    count = 0
    for item in pictures:
        size = len(item[0].target_sizes)
        if group and count + size > num_slices:
            yield group
            group, count = [], 0
        group.append(item)
        count += size
    if group:
        yield group


def _drop_half_line(index: Path) -> None:
    """Cut off what a kill left of the last line."""
    if index.exists():
        with index.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _num_patches(ref: "PictureRef") -> list[int]:
    return [int(height) * int(width) for height, width in ref.target_sizes]


def _vision_side(model: Any) -> Any:
    """The model that holds the tower; None for a text model."""
    model = getattr(model, "module", model)
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    inner = getattr(model, "model", model)
    return inner if hasattr(inner, "vision_tower") else None


def _digest(parts: Mapping[str, torch.nn.Module]) -> str:
    digest = hashlib.sha256()
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


__all__ = [
    "FeatureStore",
    "distinct_pictures",
    "feature_key",
    "fill",
    "longest_slice",
    "open_store",
]
