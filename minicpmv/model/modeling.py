"""MiniCPM-V as transformers classes: encode the slices, splice their tokens into the text, decode.

    pixel_values  -> vision_tower -> resampler -> query_num vectors per slice
    input_ids     -> embeddings, where those vectors replace the placeholders
                  -> language_model -> lm_head

The placeholder is `<unk>`, which a user may type too, so its place decides and not its id:
`image_bound` says where, else `mm_token_type_ids`, else the tags around it.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_tracing

from .checkpoint_keys import to_released
from .configuration import (
    MiniCPMVConfig,
    MiniCPMVVisionConfig,
    MiniCPMVViTConfig,
    OmniLMMConfig,
)
from .devices import DeviceFromEmbeddingsMixin
from .generation import ImageGenerationMixin
from .input_checks import (
    check_image_features,
    check_images,
    check_labels,
    check_slice_index,
    check_text,
)
from .loading import StrictLoadingMixin, set_token_ids
from .loss import loss_of_head
from .packed import with_borders
from .placeholders import PlaceholderMixin
from .positions import square_positions
from .released_parts import ReleasedPartsMixin, with_released_sizes
from .resampler import MiniCPMVResampler, MiniCPMVResamplerAttention
from .slices import SliceEncodingMixin
from .vision import MiniCPMVVisionModel
from .vit import MiniCPMVViTModel

_TOWERS: dict[type, Any] = {
    MiniCPMVVisionConfig: MiniCPMVVisionModel,
    MiniCPMVViTConfig: MiniCPMVViTModel,
}


class MiniCPMVPreTrainedModel(StrictLoadingMixin, DeviceFromEmbeddingsMixin, PreTrainedModel):
    config: MiniCPMVConfig
    config_class = MiniCPMVConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "MiniCPMVVisionEmbeddings",
        "MiniCPMVVisionEncoderLayer",
        "MiniCPMVResampler",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.text_config.initializer_range
        if isinstance(module, MiniCPMVResampler):
            init.trunc_normal_(module.query, std=std)
            init.normal_(module.proj, std=module.proj.shape[0] ** -0.5)
            if module.stores_positions:
                init.copy_(module.pos_embed, square_positions(*module.query.shape))
        elif isinstance(module, MiniCPMVResamplerAttention):
            init.trunc_normal_(module.in_proj_weight, std=std)
            init.zeros_(module.in_proj_bias)

    @classmethod
    def released_name(cls, name: str) -> str:
        return to_released(name, cls.config_class.model_type)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        set_token_ids(model.config, pretrained_model_name_or_path, kwargs)
        for module in model.modules():
            if isinstance(module, MiniCPMVResampler) and module.stores_positions:
                # transformers makes every tensor that it loads trainable.
                module.pos_embed.requires_grad_(False)
        return loaded


class MiniCPMVModel(PlaceholderMixin, SliceEncodingMixin, MiniCPMVPreTrainedModel):
    """The model without its language-modelling head."""

    _whole_model_parts = ("lm_head.",)

    def __init__(self, config: MiniCPMVConfig):
        super().__init__(config)
        tower_class = _TOWERS[type(config.vision_config)]
        self.vision_tower = tower_class._from_config(config.vision_config)
        if config.drop_vision_last_layer:
            self.vision_tower.drop_last_layer()
        self.resampler = MiniCPMVResampler(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        target_sizes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        image_bound: list[torch.Tensor] | None = None,
        image_features: torch.Tensor | None = None,
        patch_features: torch.Tensor | None = None,
        slices_per_sample: torch.Tensor | None = None,
        slice_index: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """One pass over text and pictures.

        Args:
            input_ids: (batch, seq), or `inputs_embeds` (batch, seq, hidden) instead.
            pixel_values, target_sizes: one row per slice, all samples' slices in prompt order; see
                `get_image_features`. Other names of the latter: `tgt_sizes`, the released one, and
                `spatial_shapes`, which trainers know.
            mm_token_type_ids: (batch, seq), 1 at placeholders; or image_bound: per sample
                (num_slices, 2).
            image_features: (num_slices, query_num, hidden), instead of `pixel_values`: already
                encoded.
            patch_features: (num_slices, max_patches, vision hidden), instead of `pixel_values`:
                what the vision tower gave; only the resampler is computed.
            slices_per_sample: of a packed row (`model.packed`), how many slices are each
                conversation's: (segments,). None: told by the placeholders of each sample. Slices
                without placeholders (all zeros) give no visual tokens, only gradients of zero, so
                that all processes train the same parts.
            slice_index: (num_slices,) where samples show the same slices, which row of
                `pixel_values` or of the features is each slice of the prompts, in their order; a
                row is encoded once. `slices_per_sample` then tells of the rows. None: one after
                another.

        Raises:
            ValueError: inputs do not belong together, such as placeholders and visual tokens of
                another number; the message gives both.
        """
        text_config = self.config.text_config
        check_text(
            input_ids, inputs_embeds, attention_mask, position_ids, past_key_values, text_config
        )
        target_sizes = with_released_sizes(target_sizes, kwargs)
        images = check_images(pixel_values, target_sizes, image_features, patch_features)
        kwargs = with_borders(text_config, kwargs, attention_mask, past_key_values)
        if "segment_borders" in kwargs:
            use_cache = False
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if images is None:
            self.check_text_alone(inputs_embeds, mm_token_type_ids, image_bound)
        else:
            counts: Any = None
            if slice_index is not None:
                check_slice_index(slice_index, len(images), slices_per_sample)
            if slices_per_sample is not None:
                counts = torch.as_tensor(slices_per_sample).tolist()
            is_idle = counts is not None and not any(counts)
            mask: Any = None
            if not is_idle:
                mask = self.get_placeholder_mask(
                    input_ids, inputs_embeds, mm_token_type_ids, image_bound
                )
                if not is_tracing(mask):
                    self.count_slices(mask, len(images if slice_index is None else slice_index))
            if patch_features is not None:
                assert target_sizes is not None
                image_features = self.resample(patch_features, target_sizes)
            elif image_features is None:
                if is_idle:
                    counts = None
                elif counts is None:
                    counts = mask.sum(dim=1) // self.config.query_num
                image_features = self.get_image_features(
                    pixel_values, target_sizes, counts, return_dict=True
                ).pooler_output
            check_image_features(image_features, self.config.query_num, inputs_embeds.shape[-1])
            image_features = image_features.to(inputs_embeds.device, inputs_embeds.dtype)
            if slice_index is not None:
                image_features = image_features[slice_index.to(image_features.device)]
            if is_idle:
                inputs_embeds = inputs_embeds + 0 * image_features.sum()
            else:
                inputs_embeds = inputs_embeds.masked_scatter(
                    mask.to(inputs_embeds.device)[..., None], image_features
                )
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


class MiniCPMVForConditionalGeneration(
    ImageGenerationMixin, ReleasedPartsMixin, MiniCPMVPreTrainedModel, GenerationMixin
):
    """The whole model: pictures and text in, logits of the next token out.

    `llm`, `vpm` and `resampler` are its parts under their released names.
    """

    base_class = MiniCPMVModel
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: MiniCPMVConfig):
        super().__init__(config)
        self.model = self.base_class(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()

    def get_image_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        target_sizes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        image_bound: list[torch.Tensor] | None = None,
        image_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        shift_labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        token_losses: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As `MiniCPMVModel.forward`, with logits.

        Args:
            labels: (batch, seq), -100 where no loss is wanted; shifted inside. Visual tokens are
                never learned: labels at their places count as -100.
            logits_to_keep: compute only the last so many logits, or those at the given places; 0
                means all.
            shift_labels: (batch, seq), the token to emit after each place, -100 for none. The loss
                is computed in tiles (`model.loss`), `logits` are None, and `labels` are not looked
                at. Keyword `num_items_in_batch`: what the sum is divided by.
            loss_weights: (batch, seq), factors of the losses of `shift_labels`.
            token_losses: return as `loss` those of all tokens, (batch, seq) in nats, 0 where no
                target is; `loss_weights` and `num_items_in_batch` do not count then.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            target_sizes=target_sizes,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_token_type_ids=mm_token_type_ids,
            image_bound=image_bound,
            image_features=image_features,
            use_cache=use_cache,
            **kwargs,
        )
        # MiniCPM's head was trained on a smaller scale than its decoder.
        scaling = getattr(self.config.text_config, "logits_scaling", 1.0)
        if shift_labels is not None:
            tiled = loss_of_head(
                self.lm_head,
                outputs.last_hidden_state,
                shift_labels,
                scaling=scaling,
                num_items=kwargs.get("num_items_in_batch"),
                weights=loss_weights,
                per_token=token_losses,
            )
            return CausalLMOutputWithPast(
                loss=tiled, hidden_states=outputs.hidden_states, attentions=outputs.attentions
            )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = outputs.last_hidden_state[:, keep]
        if scaling != 1:  # a division by 1 would copy them for the backward pass
            hidden_states = hidden_states / scaling
        logits = self.lm_head(hidden_states)
        loss: Any = None
        if labels is not None:
            check_labels(labels, logits)
            if pixel_values is not None or image_features is not None:
                places = self.model.get_placeholder_mask(
                    input_ids, inputs_embeds, mm_token_type_ids, image_bound
                )
                labels = labels.masked_fill(places[:, keep].to(labels.device), -100)
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class OmniLMMModel(MiniCPMVModel):
    """OmniLMM-12B without its language-modelling head."""

    config: OmniLMMConfig
    config_class = OmniLMMConfig


class OmniLMMForConditionalGeneration(MiniCPMVForConditionalGeneration, GenerationMixin):
    """OmniLMM-12B: pictures and text in, logits of the next token out."""

    config: OmniLMMConfig
    config_class = OmniLMMConfig
    base_class = OmniLMMModel


__all__ = [
    "MiniCPMVForConditionalGeneration",
    "MiniCPMVModel",
    "MiniCPMVPreTrainedModel",
    "OmniLMMForConditionalGeneration",
    "OmniLMMModel",
]
