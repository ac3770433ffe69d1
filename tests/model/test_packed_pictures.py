"""Packed rows with pictures: each conversation sees its own, and nothing of its neighbours."""

import pytest
import torch

from minicpmv.model.packed import use_packed_attention

from ..helpers.tiny import NUM_SLICES, SAMPLES, VERSIONS, sample_of, tiny_batch, tiny_model

LIMITS = {"rtol": 1e-5, "atol": 1e-5}


def conversations():
    """Samples of one batch, each alone and with shifted targets where no picture is."""
    batch = tiny_batch(SAMPLES)
    for index in range(len(SAMPLES)):
        sample = sample_of(batch, index)
        del sample["attention_mask"]
        targets = sample["input_ids"].roll(-1, dims=1)
        targets[sample["mm_token_type_ids"].bool()] = -100
        targets[:, :3] = -100
        yield sample | {"shift_labels": targets}


def packed_row(samples):
    lengths = [sample["input_ids"].shape[1] for sample in samples]
    row = {
        name: torch.cat([sample[name] for sample in samples], dim=1)
        for name in ("input_ids", "mm_token_type_ids", "shift_labels")
    }
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    row |= {
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "slices_per_sample": torch.tensor(
            [len(sample.get("target_sizes", [])) for sample in samples]
        ),
    }
    pictures = [sample for sample in samples if "pixel_values" in sample]
    if pictures:
        longest = max(sample["pixel_values"].shape[3] for sample in pictures)
        row["pixel_values"] = torch.cat(
            [
                torch.nn.functional.pad(
                    sample["pixel_values"], (0, longest - sample["pixel_values"].shape[3])
                )
                for sample in pictures
            ]
        )
        row["target_sizes"] = torch.cat([sample["target_sizes"] for sample in pictures])
    return row


def loss_and_gradients(model, batches, count):
    model.zero_grad(set_to_none=True)
    losses = []
    for batch in batches:
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        losses.append(loss.detach())
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return torch.stack(losses).sum(), gradients


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], **LIMITS)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, **LIMITS, msg=name)


def count_of(samples):
    return sum(int((sample["shift_labels"] != -100).sum()) for sample in samples)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["", "reversed"])
@pytest.mark.parametrize("version", VERSIONS)
def test_packed_pictures_are_pictures_alone(version, order):
    model = tiny_model(version)
    samples = [list(conversations())[index] for index in order]
    expected = loss_and_gradients(model, samples, count_of(samples))
    assert any("vision_tower" in name for name in expected[1])
    use_packed_attention(model)
    found = loss_and_gradients(model, [packed_row(samples)], count_of(samples))
    assert_same(found, expected)


@pytest.mark.parametrize("version", ["1.0", "2.5", "2.6"])
def test_features_of_the_tower_stand_for_pixels(version):
    """Only the resampler is trained: what the tower gave may be stored."""
    model = tiny_model(version)
    model.model.vision_tower.requires_grad_(False)
    use_packed_attention(model)
    samples = list(conversations())
    row = packed_row(samples)
    expected = loss_and_gradients(model, [row], count_of(samples))
    sizes = row["target_sizes"]
    longest = [int(rows.prod(dim=1).max()) for rows in sizes.split(NUM_SLICES[:2])]
    row_lengths = torch.tensor(longest).repeat_interleave(torch.tensor(NUM_SLICES[:2]))
    with torch.no_grad():
        patches = model.model.get_patch_features(row.pop("pixel_values"), sizes, row_lengths)
        tokens = model.model.resample(patches, sizes)
    assert_same(
        loss_and_gradients(model, [row | {"patch_features": patches}], count_of(samples)), expected
    )
    model.model.resampler.requires_grad_(False)
    del row["target_sizes"]
    found = loss_and_gradients(model, [row | {"image_features": tokens}], count_of(samples))
    torch.testing.assert_close(found[0], expected[0], **LIMITS)
    assert not any("resampler" in name for name in found[1])


@pytest.mark.parametrize("version", ["1.0", "2.5", "2.6"])
def test_an_idle_slice_only_says_which_parts_are_trained(version):
    model = tiny_model(version)
    use_packed_attention(model)
    samples = list(conversations())
    row = packed_row(samples[2:])
    expected = loss_and_gradients(model, [row], count_of(samples))
    row["pixel_values"], row["target_sizes"] = torch.zeros(1, 3, 4, 16), torch.tensor([[2, 2]])
    found = loss_and_gradients(model, [row], count_of(samples))
    assert found[0] == expected[0]
    for name, gradient in found[1].items():
        torch.testing.assert_close(
            gradient, expected[1].get(name, torch.zeros_like(gradient)), **LIMITS, msg=name
        )
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained - found[1].keys() == set()


def test_features_that_do_not_fit():
    model = tiny_model("2.6")
    use_packed_attention(model)
    row = packed_row(list(conversations()))
    pixels = row.pop("pixel_values")
    with pytest.raises(ValueError, match=r"patch_features has shape \(4, 12, 7\)"):
        model(**row, patch_features=torch.zeros(4, 12, 7))
    with pytest.raises(ValueError, match="does not fit patch_features of shape"):
        model(**row, patch_features=torch.zeros(4, 11, 24))
    with pytest.raises(ValueError, match="Pass either pixel_values or image_features, or patch"):
        model(**row, pixel_values=pixels, patch_features=torch.zeros(4, 12, 24))


def test_slices_are_the_right_number():
    model = tiny_model("2.5")
    row = packed_row(list(conversations()))
    use_packed_attention(model)
    row["slices_per_sample"] = [2, 1, 0]
    with pytest.raises(ValueError, match="counts 3 slices and pixel_values has 4"):
        model(**row)
