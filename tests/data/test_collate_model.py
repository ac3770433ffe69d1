"""A row of several conversations gives the loss and the gradients that they give one by one, from
messages to the model.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

import minicpmv.auto  # noqa: F401 - registers the classes
from minicpmv.data.collate import Collator
from minicpmv.data.pictures import PictureReader
from minicpmv.model.packed import use_packed_attention, why_not_packed
from minicpmv.train.features import FeatureStore, feature_key, fill

from ..helpers.conversations import (
    MODELS,
    examples_of,
    folder_of,
    processor_of,
    reads_pictures,
)

TRAINED = [model for model in MODELS if model != "minicpm-2b-128k"]


def model_of(model):
    return AutoModelForCausalLM.from_pretrained(
        folder_of(model), dtype=torch.float32, attn_implementation="sdpa"
    ).train()


def gradients(model, batch, num_items):
    model.zero_grad(set_to_none=True)
    loss = model(**batch, num_items_in_batch=num_items, use_cache=False).loss
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), found


@pytest.mark.parametrize("name", TRAINED)
def test_packed_rows_train_as_padded_ones(name):
    reader = PictureReader()
    examples = examples_of(name, reader)
    processor, model = processor_of(name), model_of(name)
    num_items = torch.tensor(sum(example.num_trained for example in examples))
    padded = Collator(examples, processor, packed=False, reader=reader)([[2, 0], [1]])
    expected, expected_gradients = gradients(model, padded, num_items)
    assert why_not_packed(model, 4096) is None
    use_packed_attention(model)
    packed = Collator(examples, processor, reader=reader)([[2, 0], [1]])
    found, found_gradients = gradients(model, packed, num_items)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found_gradients.keys() == expected_gradients.keys()
    for parameter, gradient in expected_gradients.items():
        torch.testing.assert_close(
            found_gradients[parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter
        )


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("name", [m for m in TRAINED if reads_pictures(m)])
def test_pictures_that_several_conversations_show_are_encoded_once(name, is_stored, tmp_path):
    """As both answers of a pair show them."""
    reader = PictureReader()
    examples = examples_of(name, reader)
    processor, model = processor_of(name), model_of(name)
    model.model.vision_tower.requires_grad_(not is_stored)
    num_items = torch.tensor(sum(example.num_trained for example in examples))
    rows = [[2, 0], [0, 1, 2, 2]]
    padded = Collator(examples, processor, packed=False, reader=reader)(rows)
    expected, expected_gradients = gradients(model, padded, num_items)
    use_packed_attention(model)
    store = None
    if is_stored:
        store = FeatureStore(tmp_path, feature_key(model, "patch_features"))
        fill(store, model, processor, examples, reader)
    packed = Collator(examples, processor, store, reader=reader)(rows)
    slices = packed["patch_features" if is_stored else "pixel_values"]
    shown = {ref.cut: ref.num_slices for n in (0, 1, 2) for ref in examples[n].pictures}
    assert len(slices) == int(packed["slices_per_sample"].sum()) == sum(shown.values())
    assert len(packed["slice_index"]) == len(padded["pixel_values"]) > len(slices)
    found, found_gradients = gradients(model, packed, num_items)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found_gradients.keys() == expected_gradients.keys()
    for parameter, gradient in expected_gradients.items():
        torch.testing.assert_close(
            found_gradients[parameter], gradient, atol=2e-5, rtol=1e-4, msg=parameter
        )


@pytest.mark.parametrize("kind", ["image_features", "patch_features"])
@pytest.mark.parametrize("name", ["1.0", "2.0", "2.5", "2.6", "omnilmm-12b"])
def test_stored_features_train_as_pixels(name, kind, tmp_path):
    reader = PictureReader()
    examples = examples_of(name, reader)
    processor, model = processor_of(name), model_of(name)
    model.model.vision_tower.requires_grad_(False)
    model.model.resampler.requires_grad_(kind == "patch_features")
    use_packed_attention(model)
    num_items = torch.tensor(sum(example.num_trained for example in examples))
    live = Collator(examples, processor, reader=reader)([[2, 0], [1]])
    expected, expected_gradients = gradients(model, live, num_items)
    store = FeatureStore(tmp_path, feature_key(model, kind))
    fill(store, model, processor, examples, reader)
    stored = Collator(examples, processor, store, reader=reader)([[2, 0], [1]])
    assert "pixel_values" not in stored
    found, found_gradients = gradients(model, stored, num_items)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found_gradients.keys() == expected_gradients.keys()
    for parameter, gradient in expected_gradients.items():
        torch.testing.assert_close(
            found_gradients[parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter
        )


@pytest.mark.parametrize("name", [m for m in TRAINED if reads_pictures(m)])
def test_an_idle_slice_changes_nothing_but_the_modules_that_are_used(name):
    reader = PictureReader()
    examples = examples_of(name, reader)
    processor, model = processor_of(name), model_of(name)
    use_packed_attention(model)
    num_items = torch.tensor(examples[1].num_trained)
    alone, alone_gradients = gradients(
        model, Collator(examples, processor, reader=reader)([[1]]), num_items
    )
    idle, idle_gradients = gradients(
        model, Collator(examples, processor, idle_slice=True, reader=reader)([[1]]), num_items
    )
    assert idle == pytest.approx(alone, abs=1e-6)
    assert alone_gradients.keys() < idle_gradients.keys()
    for parameter, gradient in idle_gradients.items():
        if parameter not in alone_gradients:
            assert not gradient.any(), parameter


def test_a_slice_index_that_points_nowhere_is_refused():
    reader = PictureReader()
    examples, model = examples_of("2.6", reader), model_of("2.6")
    batch = Collator(examples, processor_of("2.6"), reader=reader)([[2, 2]])
    use_packed_attention(model)
    for changes, message in (
        ({"slice_index": batch["slice_index"] + 1}, "names row"),
        ({"slice_index": batch["slice_index"].float()}, "expected a whole number"),
        ({"slices_per_sample": None}, "without slices_per_sample"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**batch | changes)
