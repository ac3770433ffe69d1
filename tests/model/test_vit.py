"""The tower in timm's layout: enlarged positions, class token, biases, order of the norms."""

import pytest
import torch
from torch import nn

from minicpmv.model.positions import resize_table
from minicpmv.model.vit import MiniCPMVViTModel

from ..helpers.golden import FIRST_FOLDERS, Golden
from ..helpers.tiny import strips, tiny_config, tiny_model

SHAPES = [(3, 4), (2, 5), (10, 10)]


@pytest.fixture(params=["2.0", "omnilmm-12b"])
def tower(request):
    return tiny_model(request.param).model.vision_tower


def test_table_of_its_own_grid_is_unchanged():
    table = torch.randn(9, 5)
    resized = resize_table(table, torch.tensor([[3, 3], [2, 2]]), 9, antialias=True)
    assert torch.equal(resized[0], table)
    assert not resized[1, 4:].any()


def test_table_is_enlarged_in_float32():
    table = torch.randn(16, 5)
    size = torch.tensor([[6, 7]])
    wide = resize_table(table.bfloat16().float(), size, 42, antialias=True)
    narrow = resize_table(table.bfloat16(), size, 42, antialias=True)
    assert torch.equal(narrow, wide.bfloat16())


def test_table_keeps_rows_and_columns_apart():
    """A table that says the column alone says it in every row, whatever the grid."""
    table = torch.arange(4.0).repeat(4)[:, None]  # 4 x 4
    for antialias in (True, False):
        grid = resize_table(table, torch.tensor([[3, 8]]), 24, antialias=antialias)
        grid = grid.view(3, 8)
        torch.testing.assert_close(grid, grid[:1].expand(3, 8))
        assert (grid[0].diff() > 0).all()


def test_antialiasing_matters_even_where_a_table_grows():
    table, size = torch.randn(729, 3), torch.tensor([[32, 32]])
    smooth = resize_table(table, size, 1024, antialias=True)
    plain = resize_table(table, size, 1024, antialias=False)
    assert (smooth - plain).abs().max() > 0.1


def test_padding_changes_nothing(tower):
    sizes = torch.tensor(SHAPES)
    with torch.no_grad():
        together = tower(strips(SHAPES), sizes).last_hidden_state
        padded = tower(strips(SHAPES, max_patches=110), sizes).last_hidden_state
        for index, shape in enumerate(SHAPES):
            alone = tower(strips([shape]), sizes[index : index + 1]).last_hidden_state[0]
            torch.testing.assert_close(together[index, : len(alone)], alone)
            torch.testing.assert_close(padded[index, : len(alone)], alone)


def test_class_token_is_seen_and_dropped():
    tower = tiny_model("omnilmm-12b").model.vision_tower
    sizes = torch.tensor(SHAPES)
    with torch.no_grad():
        before = tower(strips(SHAPES), sizes).last_hidden_state
        tower.cls_token += 1
        after = tower(strips(SHAPES), sizes).last_hidden_state
    assert before.shape == after.shape == (3, 100, 24)
    assert not torch.allclose(before, after, atol=1e-3)


def test_block_is_the_formula(tower):
    block, x = tower.blocks[0], torch.randn(1, 12, 24)
    weight = block.attn.qkv.weight
    bias = block.attn.qkv.bias
    if tower.config.omits_key_bias:
        assert bias is None
        bias = torch.cat([block.attn.q_bias, torch.zeros(24), block.attn.v_bias])

    def attend(y):
        query, key, value = (
            nn.functional.linear(y[0], rows, shift).unflatten(1, (3, 8)).transpose(0, 1)
            for rows, shift in zip(weight.chunk(3), bias.chunk(3), strict=True)
        )  # (num_heads, seq, head_dim)
        weights = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, dim=-1)
        return block.attn.proj((weights @ value).transpose(0, 1).flatten(1))[None]

    def feed(y):
        y = block.mlp.fc1(y)
        return block.mlp.fc2(y * 0.5 * (1 + torch.erf(y / 2**0.5)))

    if tower.config.post_norm:
        expected = x + block.norm1(attend(x))
        expected = expected + block.norm2(feed(expected))
    else:
        expected = x + attend(block.norm1(x))
        expected = expected + feed(block.norm2(expected))
    torch.testing.assert_close(block(x), expected)


def test_last_layer_is_dropped_when_the_config_says_so():
    for version in FIRST_FOLDERS:
        kept = tiny_model(version).model.vision_tower
        dropped = tiny_model(version, drop_vision_last_layer=True).model.vision_tower
        assert (len(kept.blocks), len(dropped.blocks)) == (2, 1)
        assert len(Golden(version).model.model.vision_tower.blocks) == 2  # of 3


def test_heads_must_divide_the_width():
    config = tiny_config("2.0", vision_config={"num_attention_heads": 5}).vision_config
    with pytest.raises(ValueError, match="hidden_size 24 is not a multiple of num_attention_heads"):
        MiniCPMVViTModel(config)


def test_pixels_are_taken_in_any_precision(tower):
    pixels, sizes = strips(SHAPES), torch.tensor(SHAPES)
    with torch.no_grad():
        expected = tower(pixels.half().float(), sizes).last_hidden_state
        found = tower(pixels.half(), sizes).last_hidden_state
    torch.testing.assert_close(found, expected)
