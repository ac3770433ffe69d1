"""The MiniCPM decoder, dense and mixture of experts (arXiv 2404.06395).

A Llama but for three numbers, which let learning rates found on a tiny model serve a large one:

    input_ids -> embed_tokens * scale_emb
              -> layers: hidden + residual_scale * attention(norm(hidden)), the MLP alike
              -> norm -> / logits_scaling -> lm_head

The scale belongs to the embedding module: `inputs_embeds` are used as given. In the mixture of
experts every MLP is eight, of which a router chooses two for each token.

Rotary frequencies are computed in each call. "dynamic" (NTK-aware) scaling takes the length of the
keys, padding and cache included; keys in the cache keep the rotation they were written with.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    eager_attention_forward,
    rotate_half,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_minicpm import MiniCPMConfig
from .devices import DeviceFromEmbeddingsMixin
from .input_checks import check_labels, check_text
from .loading import StrictLoadingMixin
from .loss import IGNORED, loss_of_head
from .moe import MiniCPMMoE, balance_loss
from .packed import with_borders


class MiniCPMEmbedding(nn.Embedding):
    """Token vectors times `embed_scale`; the table itself, which the head may share, is not."""

    def __init__(self, config: MiniCPMConfig):
        super().__init__(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.embed_scale = config.scale_emb

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids) * self.embed_scale


class MiniCPMRotaryEmbedding(nn.Module):
    """Cosines and sines of all positions, in float32 (RoFormer, arXiv 2104.09864)."""

    def __init__(self, config: MiniCPMConfig):
        super().__init__()
        self.config = config

    def frequencies(
        self, num_keys: int | torch.Tensor, device: Any = None
    ) -> tuple[torch.Tensor, float]:
        """Radians per position, (head_dim / 2), where queries see `num_keys` keys; and what
        cosines and sines are multiplied by."""
        rope = self.config.rope_parameters
        if rope["rope_type"] != "default":
            scaled = ROPE_INIT_FUNCTIONS[rope["rope_type"]]
            return scaled(self.config, device, seq_len=num_keys)
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim
        return 1.0 / rope["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    def forward(
        self, position_ids: torch.Tensor, num_keys: int | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            position_ids: (batch, seq).
            num_keys: length of the keys that these queries will see, cached ones included.

        Returns:
            Cosines and sines, each (batch, seq, head_dim).
        """
        frequencies, scale = self.frequencies(num_keys, position_ids.device)
        angles = position_ids[..., None].float() * frequencies  # (batch, seq, head_dim / 2)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * scale, angles.sin() * scale


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`states` (batch, num_heads, seq, head_dim) turned in float32, then as before.

    Args:
        cos, sin: (batch, seq, head_dim).
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    wide = states.float()
    return (wide * cos + rotate_half(wide) * sin).to(states.dtype)


class MiniCPMAttention(nn.Module):
    def __init__(self, config: MiniCPMConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        hidden, bias = config.hidden_size, config.attention_bias
        kv_hidden = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(hidden, hidden, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_hidden, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_hidden, bias=bias)
        self.o_proj = nn.Linear(hidden, hidden, bias=bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        shape = hidden_states.shape[:-1]
        heads = (*shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        query, key = rotate(query, *position_embeddings), rotate(key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.o_proj(output.reshape(*shape, -1).contiguous()), weights


class MiniCPMMLP(nn.Module):
    def __init__(self, config: MiniCPMConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate = self.activation(self.gate_proj(hidden_states))
        return self.down_proj(gate * self.up_proj(hidden_states))


class MiniCPMDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm block: attention, then MLP, each scaled before it is added."""

    def __init__(self, config: MiniCPMConfig, layer_idx: int):
        super().__init__()
        self.residual_scale = config.residual_scale
        self.self_attn = MiniCPMAttention(config, layer_idx)
        self.mlp = MiniCPMMoE(config) if config.num_experts else MiniCPMMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attended * self.residual_scale
        update = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + update * self.residual_scale


class MiniCPMPreTrainedModel(StrictLoadingMixin, DeviceFromEmbeddingsMixin, PreTrainedModel):
    config: MiniCPMConfig
    config_class = MiniCPMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MiniCPMDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "router_logits": OutputRecorder(nn.Linear, index=0, layer_name="mlp.gate"),
        "hidden_states": MiniCPMDecoderLayer,
        "attentions": MiniCPMAttention,
    }


class MiniCPMModel(MiniCPMPreTrainedModel):
    """The decoder without a head."""

    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]
    _whole_model_parts = ("lm_head.", "score.")

    def __init__(self, config: MiniCPMConfig):
        super().__init__(config)
        self.embed_tokens = MiniCPMEmbedding(config)
        self.layers = nn.ModuleList(
            MiniCPMDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary = MiniCPMRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """One pass over text.

        Args:
            input_ids: (batch, seq), or `inputs_embeds` (batch, seq, hidden) instead, scaled
                already, as `get_input_embeddings()` returns them.
            attention_mask: (batch, past + seq), 0 at padding.
            position_ids: (batch, seq); by default counted from the cache's end, padding included.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds` are given, or mask and
                positions are not of their shape.
        """
        check_text(
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            past_key_values,
            self.config,
        )
        kwargs = with_borders(self.config, kwargs, attention_mask, past_key_values)
        if "segment_borders" in kwargs:
            use_cache = False
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        seq = inputs_embeds.shape[1]
        num_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        num_keys = num_past + seq
        if position_ids is None:
            position_ids = (torch.arange(seq, device=inputs_embeds.device) + num_past).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        position_embeddings = self.rotary(position_ids, num_keys)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class MiniCPMForCausalLM(MiniCPMPreTrainedModel, GenerationMixin):
    """Text in, logits of the next token out."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: MiniCPMConfig):
        super().__init__(config)
        self.model = MiniCPMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        shift_labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        token_losses: bool = False,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """As `MiniCPMModel.forward`, with logits.

        Args:
            labels: (batch, seq), -100 where no loss is wanted; shifted inside.
            output_router_logits: return `router_logits`, per layer (batch * seq, num_experts), and
                `aux_loss`; None: as the config says.
            logits_to_keep: compute only the last so many logits, or those at the given places; 0
                means all.
            shift_labels: (batch, seq), the token to emit after each place, -100 for none. The loss
                is computed in tiles (`model.loss`), `logits` are None, and `labels` are not looked
                at. Keyword `num_items_in_batch`: what the sum is divided by.
            loss_weights: (batch, seq), factors of the losses of `shift_labels`.
            token_losses: return as `loss` those of all tokens, (batch, seq) in nats, 0 where no
                target is; `loss_weights` and `num_items_in_batch` do not count then.
        """
        config = self.config
        if output_router_logits is None:
            output_router_logits = config.output_router_logits
        has_loss = labels is not None or shift_labels is not None
        is_balanced = (
            self.training and has_loss and not token_losses and config.router_aux_loss_coef > 0
        )
        wants_routers = config.num_experts > 0 and (output_router_logits or is_balanced)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=wants_routers,
            **kwargs,
        )
        hidden_states, scaling = outputs.last_hidden_state, config.logits_scaling
        loss: Any = None
        aux_loss = None
        logits: Any = None
        aux_share: Any = 1.0
        if shift_labels is not None:
            num_items = kwargs.get("num_items_in_batch")
            loss = loss_of_head(
                self.lm_head,
                hidden_states,
                shift_labels,
                scaling=scaling,
                num_items=num_items,
                weights=loss_weights,
                per_token=token_losses,
            )
            if num_items is not None:  # of the step's rows, this one has so many
                aux_share = (shift_labels != IGNORED).sum() / num_items
        else:
            keep = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            hidden_states = hidden_states[:, keep]
            if scaling != 1:  # a division by 1 would copy them for the backward pass
                hidden_states = hidden_states / scaling
            logits = self.lm_head(hidden_states)
            if labels is not None:
                check_labels(labels, logits)
                loss = self.loss_function(
                    logits=logits, labels=labels, vocab_size=config.vocab_size, **kwargs
                )
        if wants_routers:
            aux_loss = balance_loss(
                outputs.router_logits, config.num_experts_per_tok, attention_mask
            )
        if is_balanced and aux_loss is not None:
            loss += aux_share * config.router_aux_loss_coef * aux_loss.to(hidden_states.device)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )


class MiniCPMForSequenceClassification(GenericForSequenceClassification, MiniCPMPreTrainedModel):
    """Text in, one score per label out, read at the last token that is not padding."""

    _whole_model_parts = ("lm_head.",)
    _fresh_on_load = ("score.",)

    def __init__(self, config: MiniCPMConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = MiniCPMModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


__all__ = [
    "MiniCPMForCausalLM",
    "MiniCPMForSequenceClassification",
    "MiniCPMModel",
    "MiniCPMPreTrainedModel",
]
