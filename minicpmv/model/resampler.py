"""The resampler: a fixed number of visual tokens from a slice of any shape.

Learned queries look once at the patches of a slice (MiniCPM-V, arXiv 2408.01800, section 3.1). Keys
carry a two-dimensional sine-cosine position, values do not. Unusual here: the inner names
(`attn.in_proj_weight`, `proj`) are those of the released tensors.
"""

import torch
from torch import nn

from .configuration import MiniCPMVConfig


def sincos_positions(positions: torch.Tensor, channels: int) -> torch.Tensor:
    """Sine-cosine code of integer positions: sines of all frequencies, then cosines.

    Args:
        positions: any shape, patch indices along one axis.
        channels: even.

    Returns:
        (*positions.shape, channels), float32.
    """
    num_frequencies = channels // 2
    exponent = torch.arange(num_frequencies, device=positions.device, dtype=torch.float32)
    frequency = 1.0 / torch.pow(10000.0, exponent / num_frequencies)
    angle = positions.to(torch.float32)[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class MiniCPMVResamplerAttention(nn.Module):
    """Multi-head cross-attention with fused projections, as `nn.MultiheadAttention` stores them.

    Always PyTorch's own SDPA: FlashAttention's padding rules assume as many queries as keys.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.num_heads = hidden_size // 128  # the releases' rule: 28 heads of 128 at 3584
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * hidden_size))
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            nn.functional.linear(x, weight, bias)
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)  # (num_slices, num_heads, seq, head_dim)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        output = nn.functional.scaled_dot_product_attention(query, key, value, attention_mask)
        return self.out_proj(output.transpose(1, 2).flatten(2))


class MiniCPMVResampler(nn.Module):
    """Patches of a slice to `query_num` vectors in the language model's space."""

    def __init__(self, config: MiniCPMVConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        patch_size = config.vision_config.hidden_size
        if hidden_size % 128:
            raise ValueError(
                f"The resampler has heads of 128 channels; the language model's hidden_size "
                f"{hidden_size} is not a multiple of 128."
            )
        self.query = nn.Parameter(torch.empty(config.query_num, hidden_size))
        # Released checkpoints have no kv_proj where the widths agree.
        self.kv_proj = (
            nn.Identity()
            if patch_size == hidden_size
            else nn.Linear(patch_size, hidden_size, bias=False)
        )
        self.attn = MiniCPMVResamplerAttention(hidden_size)
        self.ln_q = nn.LayerNorm(hidden_size, eps=1e-6)
        self.ln_kv = nn.LayerNorm(hidden_size, eps=1e-6)
        self.ln_post = nn.LayerNorm(hidden_size, eps=1e-6)
        self.proj = nn.Parameter(torch.empty(hidden_size, hidden_size))

    def forward(self, patches: torch.Tensor, target_sizes: torch.Tensor) -> torch.Tensor:
        """Compress `patches` (num_slices, max_patches, vision hidden).

        Returns:
            (num_slices, query_num, hidden)
        """
        key_value = self.ln_kv(self.kv_proj(patches))  # (num_slices, max_patches, hidden)
        num_slices, max_patches, hidden_size = key_value.shape
        target_sizes = target_sizes.to(key_value.device)
        height, width = target_sizes.unbind(1)
        index = torch.arange(max_patches, device=key_value.device)
        row, column = index // width[:, None], index % width[:, None]  # (num_slices, max_patches)
        # The first half of the channels says the column, the second the row.
        positions = torch.cat(
            [sincos_positions(axis, hidden_size // 2) for axis in (column, row)], dim=-1
        )
        is_patch = index < (height * width)[:, None]

        query = self.ln_q(self.query)[None].expand(num_slices, -1, -1)
        key = key_value + positions.to(key_value.dtype)
        output = self.attn(query, key, key_value, is_patch[:, None, None, :])
        return self.ln_post(output) @ self.proj  # (num_slices, query_num, hidden)


__all__ = ["MiniCPMVResampler"]
