"""The resampler: its position table, its attention, and what it leaves out."""

import pytest
import torch
from torch import nn
from transformers import AutoModel

from minicpmv.model.positions import square_positions
from minicpmv.model.resampler import MiniCPMVResampler

from ..helpers.golden import FIRST_FOLDERS, Golden
from ..helpers.tiny import tiny_config, tiny_model


def resampler(version="2.6", **changes):
    return tiny_model(version, **changes).model.resampler


def test_stored_positions_are_those_of_a_square():
    for version in FIRST_FOLDERS:
        module = Golden(version).model.model.resampler
        torch.testing.assert_close(
            module.pos_embed.data, square_positions(*module.query.shape), atol=1e-5, rtol=0
        )
        fresh = type(module)(Golden(version).model.config)
        assert fresh.pos_embed.requires_grad is False


def test_new_models_have_positions_too():
    torch.manual_seed(0)
    module = AutoModel.from_config(tiny_config("2.0")).resampler
    assert torch.equal(module.pos_embed, square_positions(4, 128))


def test_positions_of_keys():
    """The stored table on its own grid is the sine-cosine code; enlarged, it is another."""
    patches = torch.randn(1, 9, 24)
    outputs = {}
    for positions in ("table", "sincos"):
        module = resampler("1.0", query_num=4, key_positions=positions)
        module.pos_embed.copy_(square_positions(4, 128))
        with torch.no_grad():
            small = module(patches[:, :4], torch.tensor([[2, 2]]))
            outputs[positions] = small, module(patches, torch.tensor([[3, 3]]))
    torch.testing.assert_close(outputs["table"][0], outputs["sincos"][0])
    assert not torch.allclose(outputs["table"][1], outputs["sincos"][1], atol=1e-3)


def test_positions_of_queries():
    patches, sizes = torch.randn(1, 9, 24), torch.tensor([[3, 3]])
    added, left = (resampler("2.0", query_positions=choice) for choice in (True, False))
    left.load_state_dict(added.state_dict(), strict=False)
    with torch.no_grad():
        assert not torch.allclose(added(patches, sizes), left(patches, sizes), atol=1e-3)
        added.pos_embed.zero_()
        torch.testing.assert_close(added(patches, sizes), left(patches, sizes))


def test_stored_positions_are_of_a_square_number():
    with pytest.raises(ValueError, match="query_num 3 is not a square"):
        resampler("2.0", query_num=3)


def test_attention_is_that_of_torch():
    """`nn.MultiheadAttention`, whose tensor layout the released checkpoints have."""
    attention = resampler(text_config={"hidden_size": 256}).attn
    reference = nn.MultiheadAttention(256, num_heads=2, batch_first=True)
    reference.load_state_dict(attention.state_dict())
    query, key, value = torch.randn(2, 3, 256), torch.randn(2, 9, 256), torch.randn(2, 9, 256)
    is_patch = torch.arange(9) < torch.tensor([[9], [5]])
    found = attention(query, key, value, is_patch[:, None, None, :])
    expected, _ = reference(query, key, value, key_padding_mask=~is_patch, need_weights=False)
    torch.testing.assert_close(found, expected)


def test_padding_takes_no_part():
    module = resampler()
    patches, sizes = torch.randn(2, 12, 24), torch.tensor([[3, 4], [2, 4]])
    disturbed = patches.clone()
    disturbed[1, 8:] = 100.0
    with torch.no_grad():
        torch.testing.assert_close(module(disturbed, sizes), module(patches, sizes))


def test_positions_tell_tall_from_wide():
    module, patches = resampler(), torch.randn(1, 12, 24)
    with torch.no_grad():
        wide = module(patches, torch.tensor([[3, 4]]))
        tall = module(patches, torch.tensor([[4, 3]]))
    assert not torch.allclose(wide, tall, atol=1e-3)


def test_no_projection_where_the_widths_agree():
    """Released checkpoints have no `kv_proj` tensor then."""
    names = {
        name
        for name, _ in resampler(
            vision_config={"hidden_size": 128, "num_attention_heads": 4}
        ).named_parameters()
    }
    assert not any("kv_proj" in name for name in names)


def test_width_must_be_whole_heads():
    config = tiny_config("2.6", text_config={"hidden_size": 96})
    with pytest.raises(ValueError, match="hidden_size 96 is not a multiple of 128"):
        MiniCPMVResampler(config)
