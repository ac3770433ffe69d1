"""The vision tower: a SigLIP transformer over slices of any shape (NaViT, arXiv 2307.06304).

A slice comes as a strip of its patches, `(channels, patch_size, patch_size * num_patches)`,
zero-padded to the longest strip of the batch. Unusual here: the learned position table belongs to
a square picture of 980 pixels; a slice of another shape finds its rows by rounding fractional
coordinates down to the table's grid ("buckets").

Release 2.5 differs in two ways that its weights were trained with, named by fields of the config:
padding patches take part in attention (`attend_padding`), and positions are those of one long row
of patches (`positions="row"`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration import MiniCPMVVisionConfig
from .input_checks import check_slice_shapes
from .positions import position_buckets


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as the formula says: softmax in float32, then back.

    Args:
        query, key, value: (batch, num_heads, seq, head_dim).

    Returns:
        (batch, seq, num_heads, head_dim), and the weights (batch, num_heads, seq, seq).
    """
    weights = (query @ key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class MiniCPMVVisionEmbeddings(nn.Module):
    """Patches and their learned positions."""

    def __init__(self, config: MiniCPMVVisionConfig):
        super().__init__()
        self.config = config
        self.table_side = config.image_size // config.patch_size  # 980 // 14 = 70
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size
        )
        self.position_embedding = nn.Embedding(self.table_side**2, config.hidden_size)

    def forward(
        self,
        pixel_values: torch.Tensor,
        target_sizes: torch.Tensor,
        row_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(pixel_values)  # (num_slices, hidden, 1, max_patches)
        # In the order of memory that all layers compute in: (num_slices, max_patches, hidden)
        patches = patches.flatten(2).transpose(1, 2).contiguous()
        position_ids = self.position_ids(target_sizes, patches.shape[1], row_lengths)
        return patches + self.position_embedding(position_ids.to(patches.device))

    def position_ids(
        self,
        target_sizes: torch.Tensor,
        max_patches: int,
        row_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rows of the position table: (num_slices, max_patches), 0 where there is no patch.

        Args:
            row_lengths: (num_slices,), where positions are those of one row: its patches, padding
                included. None: `max_patches`.
        """
        side = self.table_side
        index = torch.arange(max_patches, device=target_sizes.device)
        if self.config.positions == "row":
            if row_lengths is None:
                row_lengths = torch.full_like(target_sizes[:, 0], max_patches)
            lengths = row_lengths.to(index.device)[:, None]
            ids, is_place = position_buckets(lengths, side, index), index < lengths
        else:
            height, width = target_sizes[:, :1], target_sizes[:, 1:]
            row = position_buckets(height, side, index // width)
            column = position_buckets(width, side, index % width)
            ids, is_place = row * side + column, index < height * width
        return torch.where(is_place, ids, 0)


class MiniCPMVVisionAttention(nn.Module):
    def __init__(self, config: MiniCPMVVisionConfig):
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"vision_config.hidden_size {config.hidden_size} is not a multiple of "
                f"num_attention_heads {config.num_attention_heads}."
            )
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        shape = hidden_states.shape[:-1]
        heads = (*shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            is_causal=self.is_causal,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(output.reshape(*shape, -1).contiguous()), weights


class MiniCPMVVisionMLP(nn.Module):
    def __init__(self, config: MiniCPMVVisionConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class MiniCPMVVisionEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm block: attention, then MLP."""

    def __init__(self, config: MiniCPMVVisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = MiniCPMVVisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MiniCPMVVisionMLP(config)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        attended, _ = self.self_attn(self.layer_norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class MiniCPMVVisionEncoder(nn.Module):
    def __init__(self, config: MiniCPMVVisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            MiniCPMVVisionEncoderLayer(config) for _ in range(config.num_hidden_layers)
        )


class MiniCPMVVisionModel(PreTrainedModel):
    """Slices in, one vector per patch out.

    Expects `pixel_values` (num_slices, channels, patch_size, patch_size * max_patches), values in
    -1 to 1, and `target_sizes` (num_slices, 2): height and width of each slice in patches.
    """

    config: MiniCPMVVisionConfig
    config_class = MiniCPMVVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["MiniCPMVVisionEmbeddings", "MiniCPMVVisionEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "patch_embedding"
    _can_record_outputs = {
        "hidden_states": MiniCPMVVisionEncoderLayer,
        "attentions": MiniCPMVVisionAttention,
    }

    def __init__(self, config: MiniCPMVVisionConfig):
        super().__init__(config)
        self.embeddings = MiniCPMVVisionEmbeddings(config)
        self.encoder = MiniCPMVVisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def drop_last_layer(self) -> None:
        self.encoder.layers = self.encoder.layers[:-1]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MiniCPMVVisionEmbeddings):
            init.normal_(module.position_embedding.weight, std=module.config.hidden_size**-0.5)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor,
        target_sizes: torch.Tensor,
        row_lengths: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode; of `last_hidden_state` (num_slices, max_patches, hidden), rows past a slice's
        own patches are meaningless.

        Args:
            row_lengths: (num_slices,), where padding takes part in attention (release 2.5), how
                many patches of each strip do, padding included. None: all.
        """
        check_slice_shapes(pixel_values, target_sizes, self.config)
        hidden_states = self.embeddings(pixel_values, target_sizes, row_lengths)
        attention_mask = None
        num_patches = row_lengths if self.config.attend_padding else target_sizes.prod(dim=1)
        if num_patches is not None:
            index = torch.arange(hidden_states.shape[1], device=hidden_states.device)
            is_patch = index < num_patches.to(index.device)[:, None]  # (num_slices, max_patches)
            attention_mask = create_bidirectional_mask(self.config, hidden_states, is_patch)
        for layer in self.encoder.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.post_layernorm(hidden_states))


__all__ = ["MiniCPMVVisionModel"]
