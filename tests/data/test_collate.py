"""A packed batch holds what the padded one does, conversation by conversation."""

import numpy as np
import pytest
import torch

from minicpmv.data.collate import Collator
from minicpmv.data.encode import NO_TARGET, EncodeSettings, Example, encode_conversation
from minicpmv.data.messages import Conversation, Message, Picture
from minicpmv.data.pictures import PictureReader

from ..helpers.conversations import MODELS, examples_of, picture, processor_of, reads_pictures


@pytest.fixture(scope="module")
def reader():
    return PictureReader()


@pytest.mark.parametrize("model", MODELS)
def test_packed_is_padded_end_to_end(model, reader):
    examples = examples_of(model, reader)
    processor = processor_of(model)
    packed = Collator(examples, processor, reader=reader)([[2, 0], [1]])
    padded = Collator(examples, processor, packed=False, reader=reader)([[2, 0], [1]])
    lengths = padded["attention_mask"].sum(1).tolist()
    assert packed["cu_seq_lens_q"].tolist() == [0, *np.cumsum(lengths)]
    assert packed["cu_seq_lens_q"].dtype == torch.int32
    assert packed["max_length_q"] == max(lengths)
    names = ["input_ids", "position_ids", "shift_labels"]
    names += ["mm_token_type_ids"] if reads_pictures(model) else []
    for name in names:
        parts = [row[:length] for row, length in zip(padded[name], lengths, strict=True)]
        assert packed[name].equal(torch.cat(parts)[None]), name
    for example, ids, targets in zip(
        [examples[2], examples[0], examples[1]],
        padded["input_ids"],
        padded["shift_labels"],
        strict=True,
    ):
        length = len(example.input_ids)
        assert ids[:length].tolist() == example.input_ids.tolist()
        assert targets[:length].tolist() == example.targets.tolist()
        assert (targets[length:] == NO_TARGET).all()
    assert "attention_mask" not in packed
    for name in ("pixel_values", "target_sizes", "slices_per_sample"):
        assert (name in packed) == reads_pictures(model)
        if name in packed:
            assert packed[name].equal(padded[name])
    if reads_pictures(model):
        queries = processor.num_queries
        slices = packed["mm_token_type_ids"].sum().item() // queries
        assert len(packed["pixel_values"]) == slices == packed["slices_per_sample"].sum()
        assert packed["slices_per_sample"][-1] == 0


def test_labels_hold_the_same_tokens_moved_right(reader):
    examples = examples_of("2.6", reader)
    batch = Collator(examples, processor_of("2.6"), reader=reader)([[0, 1, 2]])
    assert batch["labels"][0, 1:].equal(batch["shift_labels"][0, :-1])
    assert batch["labels"][0, 0] == NO_TARGET


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("model", ["2.6", "minicpm-2b"])
def test_an_empty_row_is_one_token_that_teaches_nothing(model, packed, reader):
    examples = examples_of(model, reader)
    batch = Collator(examples, processor_of(model), packed=packed, reader=reader)([[]])
    assert batch["input_ids"].shape == (1, 1)
    assert batch["shift_labels"].tolist() == [[NO_TARGET]]
    assert "pixel_values" not in batch
    assert "mm_token_type_ids" not in batch


@pytest.mark.parametrize("model", [m for m in MODELS if reads_pictures(m)])
def test_rows_of_text_can_show_an_idle_slice(model, reader):
    examples = examples_of(model, reader)
    collator = Collator(examples, processor_of(model), idle_slice=True, reader=reader)
    batch = collator([[1]])
    assert batch["slices_per_sample"].tolist() == [0]
    (height, width) = batch["target_sizes"][0].tolist()
    patch = processor_of(model).image_processor.patch_size
    assert batch["pixel_values"].shape == (1, 3, patch, patch * height * width)
    assert not batch["mm_token_type_ids"].any()
    assert "slices_per_sample" in collator([[]])
    assert len(collator([[0]])["pixel_values"]) == collator([[0]])["slices_per_sample"].sum()


class Store:
    """Features that say where they come from."""

    dtype = torch.float32
    key = {"query_num": 3, "width": 5}

    def __init__(self, kind):
        self.kind = kind
        self.asked = []

    def get(self, ref, longest):
        self.asked.append((ref.digest, longest))
        count = 3 if self.kind == "image_features" else max(h * w for h, w in ref.target_sizes)
        return torch.full((ref.num_slices, count, 5), float(ref.digest[0]))


@pytest.mark.parametrize("kind", ["image_features", "patch_features"])
def test_stored_features_take_the_place_of_pixels(kind, reader):
    examples = examples_of("2.5", reader)
    store = Store(kind)
    batch = Collator(examples, processor_of("2.5"), store, reader=reader)([[0, 2]])
    assert "pixel_values" not in batch
    assert ("target_sizes" in batch) == (kind == "patch_features")
    refs = [*examples[0].pictures, *examples[2].pictures]
    owner = [ref.digest[0] for ref in refs for _ in range(ref.num_slices)]
    assert batch[kind][:, 0, 0].tolist() == owner
    longest = [
        max(h * w for ref in example.pictures for h, w in ref.target_sizes)
        for example in (examples[0], examples[2], examples[2])
    ]
    assert store.asked == [(r.digest, n) for r, n in zip(refs, longest, strict=True)]
    idle = Collator(examples, processor_of("2.5"), store, idle_slice=True)([[1]])
    assert idle[kind].shape == (1, 3 if kind == "image_features" else 4, 5)


def test_weights_of_the_loss_stand_beside_the_targets():
    def example(number, weights):
        ids = np.array([5, 6, 7], np.int32)
        return Example(number, 0, ids, ids, np.zeros(3, np.uint8), weights=weights)

    examples = [example(0, None), example(1, np.array([0, 1.5, 2], np.float32))]
    batch = Collator(examples, processor_of("minicpm-2b"))([[0, 1]])
    assert batch["loss_weights"].tolist() == [[1, 1, 1, 0, 1.5, 2]]
    assert "loss_weights" not in Collator(examples, processor_of("minicpm-2b"))([[0]])


def test_a_picture_that_has_changed_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    row = Conversation(
        (Message("user", (Picture(str(path)), "What?")), Message("assistant", ("A",)))
    )
    reader = PictureReader()
    examples = encode_conversation(processor_of("2.6"), row, EncodeSettings(), reader)
    Collator(examples, processor_of("2.6"))([[0]])
    picture(colour="blue").save(path)
    with pytest.raises(ValueError, match=r"a\.png has changed since the data was prepared"):
        Collator(examples, processor_of("2.6"))([[0]])
