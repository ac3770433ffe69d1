"""The resampler: a fixed number of visual tokens from a slice of any shape.

Learned queries attend once to the patches of a slice (MiniCPM-V, arXiv 2408.01800, section 3.1).
Keys carry a two-dimensional sine-cosine position, values do not. Unusual here: the inner names
(`attn.in_proj_weight`, `proj`) are those of the released tensors.

The older releases store the positions of their queries, a square of 8 x 8, and add them
(`query_positions`). 1.0 and OmniLMM-12B take the keys' positions from the same table, enlarged to
the slice (`key_positions="table"`).
"""

import math

import torch
from torch import nn

from .configuration import MiniCPMVConfig
from .positions import grid_positions, resize_table


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
        query, key, value = self.project(query, key, value)
        output = nn.functional.scaled_dot_product_attention(query, key, value, attention_mask)
        return self.out_proj(output.transpose(1, 2).flatten(2))

    def project(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Query, key and value, each by heads: (num_slices, num_heads, seq, head_dim)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        return tuple(
            nn.functional.linear(x, weight, bias)
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )


class MiniCPMVResampler(nn.Module):
    """Patches of a slice to `query_num` vectors in the language model's space."""

    def __init__(self, config: MiniCPMVConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        vision_size = config.vision_config.hidden_size
        if hidden_size % 128:
            raise ValueError(
                f"The resampler has heads of 128 channels; the language model's hidden_size "
                f"{hidden_size} is not a multiple of 128."
            )
        self.query_positions, self.key_positions = config.query_positions, config.key_positions
        self.query = nn.Parameter(torch.empty(config.query_num, hidden_size))
        self.stores_positions = config.query_positions or config.key_positions == "table"
        if self.stores_positions:
            if math.isqrt(config.query_num) ** 2 != config.query_num:
                raise ValueError(
                    f"query_num {config.query_num} is not a square, which the stored positions of "
                    "the queries are."
                )
            self.pos_embed = nn.Parameter(torch.empty_like(self.query), requires_grad=False)
        # Released checkpoints have no kv_proj where the widths agree.
        self.kv_proj = (
            nn.Identity()
            if vision_size == hidden_size
            else nn.Linear(vision_size, hidden_size, bias=False)
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
        index = torch.arange(max_patches, device=key_value.device)
        is_patch = index < target_sizes.prod(dim=1)[:, None]  # (num_slices, max_patches)

        query = self.ln_q(self.query)
        if self.query_positions:
            query = query + self.pos_embed
        query = query[None].expand(num_slices, -1, -1)
        if self.key_positions == "table":
            positions = resize_table(self.pos_embed, target_sizes, max_patches, antialias=False)
        else:
            positions = grid_positions(target_sizes, max_patches, hidden_size, key_value.dtype)
        key = key_value + positions.to(key_value)
        output = self.attn(query, key, key_value, is_patch[:, None, None, :])
        return self.ln_post(output) @ self.proj  # (num_slices, query_num, hidden)


__all__ = ["MiniCPMVResampler"]
