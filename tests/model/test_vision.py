"""The vision tower: position buckets, padding, and its two ways to attend."""

import pytest
import torch
from torch import nn

from minicpmv.model.vision import MiniCPMVVisionModel

from ..helpers.tiny import strips, tiny_config, tiny_model

SHAPES = [(3, 4), (2, 5), (1, 7)]


def tower(version, **vision_config):
    return tiny_model(version, vision_config=vision_config).model.vision_tower


def test_grid_positions_are_rows_of_a_square_table():
    embeddings = tower("2.6").embeddings
    ids = embeddings.position_ids(torch.tensor([[2, 5], [1, 2]]), 10)
    # Table of 10 x 10: two rows of patches stand at 0 and 5, five columns at 0, 2, 4, 6, 8.
    assert ids.tolist() == [
        [0, 2, 4, 6, 8, 50, 52, 54, 56, 58],
        [0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_row_positions_are_those_of_one_long_row():
    embeddings = tower("2.5").embeddings
    ids = embeddings.position_ids(torch.tensor([[2, 5], [1, 2]]), 10)
    assert ids.tolist() == [list(range(10))] * 2


def test_sdpa_is_eager(version):
    model, pixels = tower(version), strips(SHAPES)
    sizes = torch.tensor(SHAPES)
    lengths = sizes.prod(dim=1).tolist()
    outputs = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            outputs[implementation] = model(pixels, sizes).last_hidden_state
    for sdpa, eager, length in zip(outputs["sdpa"], outputs["eager"], lengths, strict=True):
        torch.testing.assert_close(sdpa[:length], eager[:length])


def test_attention_is_the_formula():
    """softmax(q k^T / sqrt(head_dim)) v, head by head, with no mask and no padding."""
    model = tower("2.6")
    attention = model.encoder.layers[0].self_attn
    hidden_states = torch.randn(1, 12, 24)

    def heads(x):
        return x[0].unflatten(1, (3, 8)).transpose(0, 1)  # (num_heads, seq, head_dim)

    query, key, value = (
        heads(projection(hidden_states))
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, dim=-1)
    expected = attention.out_proj((weights @ value).transpose(0, 1).flatten(1))
    output, _ = attention(hidden_states)
    torch.testing.assert_close(output[0], expected)


def test_padding_changes_nothing_where_it_is_masked():
    model, sizes = tower("2.6"), torch.tensor(SHAPES)
    with torch.no_grad():
        together = model(strips(SHAPES), sizes).last_hidden_state
        padded = model(strips(SHAPES, max_patches=20), sizes).last_hidden_state
        for index, shape in enumerate(SHAPES):
            alone = model(strips([shape]), sizes[index : index + 1]).last_hidden_state[0]
            torch.testing.assert_close(together[index, : len(alone)], alone)
            torch.testing.assert_close(padded[index, : len(alone)], alone)


def test_padding_is_seen_where_the_weights_expect_it():
    model, sizes = tower("2.5"), torch.tensor([(1, 7)])
    with torch.no_grad():
        alone = model(strips([(1, 7)]), sizes).last_hidden_state
        padded = model(strips([(1, 7)], max_patches=9), sizes).last_hidden_state
    assert not torch.allclose(alone[0], padded[0, :7], atol=1e-3)


def test_padding_of_other_samples_is_not_seen():
    """Release 2.5 attends the padding of its own sample only, however wide the batch is."""
    model, sizes = tower("2.5"), torch.tensor([(2, 3), (1, 7)])
    with torch.no_grad():
        alone = model(strips([(2, 3), (1, 7)]), sizes).last_hidden_state
        wide = strips([(2, 3), (1, 7)], max_patches=12)
        lengths = torch.tensor([7, 7])
        found = model(wide, sizes, row_lengths=lengths).last_hidden_state
    torch.testing.assert_close(found[:, :7], alone)


@pytest.mark.parametrize("version", ["2.5", "2.0"])
def test_groups_of_slices_bound_every_part(version):
    model = tiny_model(version, vision_config={"batch_size": 2})
    seen = []
    for module in (model.model.vision_tower, model.model.resampler):
        module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    model.get_image_features(strips(SHAPES), torch.tensor(SHAPES))
    assert seen == [2, 2, 1, 1]


def test_groups_of_slices_change_nothing():
    pixels, sizes = strips(SHAPES), torch.tensor(SHAPES)
    outputs = []
    for batch_size in (16, 2, 1):
        model = tiny_model("2.6", vision_config={"batch_size": batch_size})
        with torch.no_grad():
            outputs.append(model.get_image_features(pixels, sizes).pooler_output)
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(outputs[2], outputs[0])


def test_last_layer_is_dropped_when_the_config_says_so():
    kept = tiny_model("2.6").model.vision_tower
    dropped = tiny_model("2.6", drop_vision_last_layer=True).model.vision_tower
    assert (len(kept.encoder.layers), len(dropped.encoder.layers)) == (2, 1)


def test_heads_must_divide_the_width():
    config = tiny_config("2.6", vision_config={"num_attention_heads": 5}).vision_config
    with pytest.raises(ValueError, match="hidden_size 24 is not a multiple of num_attention_heads"):
        MiniCPMVVisionModel(config)


def test_patches_are_a_linear_map_of_their_pixels():
    """The strip layout: patch i is columns [i * patch_size, (i + 1) * patch_size) of its row."""
    embeddings = tower("2.6").embeddings
    pixels = strips([(2, 3)])
    convolution = embeddings.patch_embedding
    for index in range(6):
        patch = pixels[0, :, :, index * 4 : (index + 1) * 4]
        expected = nn.functional.linear(
            patch.flatten(), convolution.weight.flatten(1), convolution.bias
        )
        position = embeddings.position_embedding(
            embeddings.position_ids(torch.tensor([[2, 3]]), 6)[0, index]
        )
        found = embeddings(pixels, torch.tensor([[2, 3]]))[0, index]
        torch.testing.assert_close(found, expected + position)
