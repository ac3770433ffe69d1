"""The vision tower of MiniCPM-V 1.0, 2.0 and OmniLMM-12B: a ViT in the names and layout of timm.

A slice comes as a strip of its patches, `(channels, patch_size, patch_size * num_patches)`,
zero-padded to the longest strip of the batch. Unusual here: the learned position table belongs to a
square picture, and is enlarged to the shape of each slice as pixels would be, by antialiased
bicubic interpolation; GELU is the exact form.

Two towers were released, told apart by fields of the config: SigLIP's normalises before each step;
EVA-02's (OmniLMM) after it, has a class token, which is dropped from the output, and no bias for
keys.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration import MiniCPMVViTConfig
from .input_checks import check_slice_shapes
from .positions import resize_table
from .vision import MiniCPMVVisionMLP, eager_attention_forward


class MiniCPMVViTPatches(nn.Module):
    def __init__(self, config: MiniCPMVViTConfig):
        super().__init__()
        self.proj = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.proj(pixel_values.to(self.proj.weight.dtype))  # (..., 1, max_patches)
        # In the order of memory that all layers compute in: (num_slices, max_patches, hidden)
        return patches.flatten(2).transpose(1, 2).contiguous()


class MiniCPMVViTAttention(nn.Module):
    """Attention with one projection for queries, keys and values, in this order."""

    def __init__(self, config: MiniCPMVViTConfig):
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"vision_config.hidden_size {config.hidden_size} is not a multiple of "
                f"num_attention_heads {config.num_attention_heads}."
            )
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // self.num_heads) ** -0.5
        self.dropout = config.attention_dropout
        self.is_causal = False
        self.omits_key_bias = bool(config.omits_key_bias)
        self.qkv = nn.Linear(
            config.hidden_size, 3 * config.hidden_size, bias=not self.omits_key_bias
        )
        if self.omits_key_bias:
            self.q_bias = nn.Parameter(torch.zeros(config.hidden_size))
            self.v_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv(hidden_states)
        if self.omits_key_bias:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1)
        )  # (num_slices, num_heads, seq, head_dim)
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
        return self.proj(output.flatten(2)), weights


class MiniCPMVViTBlock(GradientCheckpointingLayer):
    """Attention, then MLP; each normalised before or after it (`post_norm`)."""

    def __init__(self, config: MiniCPMVViTConfig):
        super().__init__()
        self.post_norm = config.post_norm
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = MiniCPMVViTAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MiniCPMVVisionMLP(config)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        if self.post_norm:
            attended, _ = self.attn(hidden_states, attention_mask, **kwargs)
            hidden_states = hidden_states + self.norm1(attended)
            return hidden_states + self.norm2(self.mlp(hidden_states))
        attended, _ = self.attn(self.norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.norm2(hidden_states))


class MiniCPMVViTModel(PreTrainedModel):
    """Slices in, one vector per patch out.

    Expects `pixel_values` (num_slices, channels, patch_size, patch_size * max_patches), and
    `target_sizes` (num_slices, 2): height and width of each slice in patches.
    """

    config: MiniCPMVViTConfig
    config_class = MiniCPMVViTConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["MiniCPMVViTPatches", "MiniCPMVViTBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": MiniCPMVViTBlock,
        "attentions": MiniCPMVViTAttention,
    }

    def __init__(self, config: MiniCPMVViTConfig):
        super().__init__(config)
        side = config.image_size // config.patch_size  # 384 // 14 = 27
        num_places = side * side + (1 if config.has_class_token else 0)
        self.patch_embed = MiniCPMVViTPatches(config)
        if config.has_class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_places, config.hidden_size))
        self.blocks = nn.ModuleList(
            MiniCPMVViTBlock(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed.proj

    def drop_last_layer(self) -> None:
        self.blocks = self.blocks[:-1]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MiniCPMVViTModel):
            init.trunc_normal_(module.pos_embed, std=0.02)
            if module.config.has_class_token:
                init.trunc_normal_(module.cls_token, std=0.02)
        elif isinstance(module, MiniCPMVViTAttention) and module.omits_key_bias:
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)  # which have the class token
    def forward(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, **kwargs: Any
    ) -> BaseModelOutput:
        """Encode; of `last_hidden_state` (num_slices, max_patches, hidden), rows past a slice's
        own patches are meaningless.
        """
        check_slice_shapes(pixel_values, target_sizes, self.config)
        hidden_states = self.patch_embed(pixel_values)  # (num_slices, max_patches, hidden)
        num_slices, max_patches, _ = hidden_states.shape
        table = self.pos_embed[0, 1:] if self.config.has_class_token else self.pos_embed[0]
        positions = resize_table(table, target_sizes, max_patches, antialias=True)
        hidden_states = hidden_states + positions.to(hidden_states.device)
        num_patches = target_sizes.to(hidden_states.device).prod(dim=1)
        if self.config.has_class_token:
            token = self.cls_token + self.pos_embed[:, :1]
            token = token.to(hidden_states.device).expand(num_slices, -1, -1)
            hidden_states = torch.cat([token, hidden_states], dim=1)
            num_patches = num_patches + 1
        index = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        is_token = index < num_patches[:, None]  # (num_slices, seq)
        attention_mask = create_bidirectional_mask(self.config, hidden_states, is_token)
        for block in self.blocks:
            hidden_states = block(hidden_states, attention_mask, **kwargs)
        hidden_states = self.norm(hidden_states)
        return BaseModelOutput(last_hidden_state=hidden_states[:, -max_patches:])


__all__ = ["MiniCPMVViTModel"]
