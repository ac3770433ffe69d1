"""Features of a frozen vision side on disk, against those computed live."""

import hashlib
import json
from dataclasses import dataclass

import pytest
import torch

from minicpmv.train import features
from minicpmv.train.features import FeatureStore, feature_key, fill, open_store

from ..helpers.tiny import strips, tiny_model

# Pictures of the conversations, by slices.
CUTS = {
    "wide": [(3, 4), (2, 5), (1, 3)],
    "small": [(4, 2)],
    "tall": [(5, 1), (2, 2)],
}
CONVERSATIONS = [["wide", "small"], ["small"], [], ["tall", "wide"]]


@dataclass(frozen=True)
class Ref:
    source: str
    kind: str = "image"

    @property
    def digest(self):
        return hashlib.sha256(self.source.encode()).digest()[:16]

    @property
    def target_sizes(self):
        return tuple(CUTS[self.source])


@dataclass(frozen=True)
class Example:
    pictures: tuple[Ref, ...]


PREPARED = [Example(tuple(map(Ref, names))) for names in CONVERSATIONS]


class Reader:
    """Random pixels by name; counts what is read."""

    def __init__(self):
        self.read = []

    def pixels(self, processor, refs):
        self.read += [ref.source for ref in refs]
        sizes = [size for ref in refs for size in ref.target_sizes]
        return strips(sizes), torch.tensor(sizes)


def frozen(version, kind):
    model = tiny_model(version)
    model.model.vision_tower.requires_grad_(False)
    if kind == "image_features":
        model.model.resampler.requires_grad_(False)
    return model


def live(model, names, kind):
    """Features of one conversation's pictures, as without a store."""
    sizes = torch.tensor([size for name in names for size in CUTS[name]])
    pixels = strips(sizes.tolist())
    longest = sizes.prod(dim=1).max().expand(len(sizes))
    with torch.no_grad():
        if kind == "image_features":
            return model.get_image_features(pixels, sizes).pooler_output
        return model.model.get_patch_features(pixels, sizes, row_lengths=longest)


@pytest.mark.parametrize("kind", ["image_features", "patch_features"])
@pytest.mark.parametrize("version", ["1.0", "2.0", "2.5", "2.6", "omnilmm-12b"])
def test_stored_features_are_live_features(tmp_path, version, kind):
    model, reader = frozen(version, kind), Reader()
    store, reason = open_store(tmp_path, model, PREPARED)
    assert (store.kind, reason) == (kind, "")
    seen = []
    assert model.training is False
    count = fill(store, model, None, PREPARED, reader, on_progress=lambda *n: seen.append(n))
    follows = version == "2.5"  # "wide" and "small" stand in conversations of other lengths
    assert count == len(reader.read) == seen[-1][0] == (4 if follows else 3)
    again = FeatureStore(tmp_path, feature_key(model, kind))
    assert fill(again, model, None, PREPARED, reader) == 0
    for names in CONVERSATIONS:
        if not names:
            continue
        longest = max(h * w for name in names for h, w in CUTS[name])
        expected = live(model, names, kind).split([len(CUTS[name]) for name in names])
        for name, rows in zip(names, expected, strict=True):
            found = again.get(Ref(name), longest)
            assert len(found) == len(CUTS[name])
            for row, other, (height, width) in zip(found, rows, CUTS[name], strict=True):
                used = height * width if kind == "patch_features" else len(other)
                torch.testing.assert_close(row[:used], other[:used], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", ["2.0", "2.5", "2.6"])
def test_a_slice_alone_is_stored_exactly(tmp_path, version):
    model = frozen(version, "patch_features")
    data = [Example((Ref("small"),))]
    store, _ = open_store(tmp_path, model, data)
    fill(store, model, None, data, Reader())
    expected = live(model, ["small"], "patch_features")
    torch.testing.assert_close(store.get(Ref("small"), 8), expected, rtol=0, atol=0)


def test_processes_share_the_work(tmp_path):
    model, readers = frozen("2.6", "patch_features"), [Reader(), Reader(), Reader()]
    key = feature_key(model, "patch_features")
    stores = [FeatureStore(tmp_path, key) for _ in readers]
    for rank, (store, reader) in enumerate(zip(stores, readers, strict=True)):
        fill(store, model, None, PREPARED, reader, rank=rank, count=3)
    assert sorted(name for reader in readers for name in reader.read) == sorted(CUTS)
    for store in stores:
        store.refresh()
        assert store.missing(map(Ref, CUTS)) == []
        for name in CUTS:
            assert torch.equal(store.get(Ref(name)), stores[0].get(Ref(name)))


def test_what_was_written_before_a_kill_is_kept(tmp_path):
    model = frozen("2.6", "image_features")
    store, _ = open_store(tmp_path, model, PREPARED)
    fill(store, model, None, PREPARED, Reader())
    (index,) = store.folder.glob("index-*.jsonl")
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    (shard,) = store.folder.glob("shard-*.bin")
    shard.write_bytes(shard.read_bytes()[: json.loads(lines[1])["end"] - 3])
    again, _ = open_store(tmp_path, model, PREPARED)
    assert len(again.missing(map(Ref, CUTS))) == 2
    assert fill(again, model, None, PREPARED, Reader()) == 2
    later = FeatureStore(tmp_path, store.key)
    for name in CUTS:
        expected = live(model, [name], store.kind)
        torch.testing.assert_close(later.get(Ref(name)), expected, rtol=1e-5, atol=1e-5)


def test_other_weights_have_other_features(tmp_path):
    model = frozen("2.6", "patch_features")
    key = feature_key(model, "patch_features")
    store = FeatureStore(tmp_path, key)
    fill(store, model, None, PREPARED, Reader())
    with torch.no_grad():
        next(model.model.resampler.parameters()).add_(1)
    assert feature_key(model, "patch_features") == key
    with torch.no_grad():
        list(model.model.vision_tower.parameters())[-1][-1] += 1e-6
    other = FeatureStore(tmp_path, feature_key(model, "patch_features"))
    assert len(other.missing(map(Ref, CUTS))) == 3
    with pytest.raises(ValueError, match=r"features of a picture \(small\) are not in"):
        other.get(Ref("small"))
    assert json.loads((store.folder / "key.json").read_text()) == key


def test_shards_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 2000)
    model = frozen("2.6", "patch_features")
    store, _ = open_store(tmp_path, model, PREPARED)
    fill(store, model, None, PREPARED, Reader())
    shards = sorted(store.folder.glob("shard-*.bin"))
    assert len(shards) > 1
    assert sum(shard.stat().st_size for shard in shards) == sum(
        store.bytes_of(Ref(name)) for name in CUTS
    )


def test_why_there_is_no_store(tmp_path):
    model = frozen("2.6", "patch_features")
    assert open_store(tmp_path, model, [Example(())]) == (None, "the data has no pictures")
    store, reason = open_store(tmp_path, model, PREPARED, max_bytes=1000)
    assert store is None
    assert "features of 3 pictures take 0.0 GB, more than the 0.0 GB" in reason
    model.model.vision_tower.requires_grad_(True)
    assert open_store(tmp_path, model, PREPARED) == (None, "the vision tower is trained")
    assert open_store(tmp_path, torch.nn.Linear(2, 2), PREPARED)[1] == (
        "the model takes no pictures"
    )
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_stored_as_it_is(tmp_path):
    model = frozen("2.6", "patch_features").bfloat16()
    store, _ = open_store(tmp_path, model, PREPARED)
    fill(store, model, None, PREPARED, Reader())
    found = store.get(Ref("small"))
    assert found.dtype == torch.bfloat16
    assert store.bytes_of(Ref("small")) == 8 * 24 * 2
