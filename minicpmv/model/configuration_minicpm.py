"""Numbers of the MiniCPM language models: `MiniCPMConfig`, dense and mixture of experts.

Released `config.json` files say less than they mean: no `model_type`, no `rope_theta`, no
`tie_word_embeddings`. The defaults below are those of the released code, and decide. Saving writes
the file back as it was read, changed only where the model has changed.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .flat_config import FlatConfigMixin

# Serialised by transformers for its own sake; no released file has them.
_UNRELEASED_FIELDS = {
    "_name_or_path",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "is_encoder_decoder",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "rope_parameters",
}


@strict
class MiniCPMConfig(FlatConfigMixin, PreTrainedConfig):
    """A MiniCPM language model (arXiv 2404.06395): 2B, 1B, 2B-128k, MoE-8x2B.

    Fields:
        scale_emb: token embeddings are multiplied by it.
        scale_depth: what every layer adds is multiplied by `scale_depth / sqrt(num_hidden_layers)`.
        dim_model_base: width of the model that the learning rates were found on; the last hidden
            state is divided by `hidden_size / dim_model_base` before the head.
        num_experts: 0 for a dense model; num_experts_per_tok: how many of them process each token.
        rope_scaling: None, or {"type": "linear" or "dynamic", "factor": above 1}, the released
            form of `rope_parameters`. transformers' other types are taken too.
        output_router_logits: whether to return the logits of the routers.
        router_aux_loss_coef: weight of the load-balancing auxiliary loss, added while
            training. 0: none; the paper trained with 0.01.

    Raises:
        ValueError: numbers that do not go together.
    """

    model_type = "minicpm"
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: Any = None  # a number; None means num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = True
    rope_parameters: Any = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    scale_emb: float | int = 1
    scale_depth: float | int = 1
    dim_model_base: float | int = 1
    num_experts: int = 0
    num_experts_per_tok: int = 0
    output_router_logits: bool = False
    router_aux_loss_coef: float | int = 0.0

    def __post_init__(self, **kwargs: Any):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        # transformers fills in what these dicts leave unsaid; not in the caller's own.
        self.rope_parameters = copy.copy(self.rope_parameters)
        kwargs["rope_scaling"] = copy.copy(kwargs.get("rope_scaling"))
        kwargs.pop("auto_map", None)
        self.base_model_tp_plan = self._tp_plan()  # transformers 5.19 adds to it
        super().__post_init__(**kwargs)
        self.auto_map: dict[str, str] = {}  # our classes are native; TRL reads a dict here
        self._check()
        self._released: dict[str, Any] = {}
        self._released_values: dict[str, Any] = {}

    def _check(self) -> None:
        for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or heads % kv_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads "
                f"{heads}, and that a multiple of num_key_value_heads {kv_heads}."
            )
        if self.num_experts and not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}; with num_experts "
                f"{self.num_experts} it must be from 1 to {self.num_experts}."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"hidden_act {self.hidden_act!r} is not known; the releases have 'silu'."
            )
        rope = self.rope_parameters
        rope_type, factor = rope["rope_type"], rope.get("factor")
        if rope_type not in ("default", *ROPE_INIT_FUNCTIONS):
            raise ValueError(
                f"rope_scaling is of type {rope_type!r}, which is not known; the releases have "
                "'linear' and 'dynamic'."
            )
        is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
        if rope_type in ("linear", "dynamic") and not (is_number and factor > 1):
            raise ValueError(f"rope_scaling has factor {factor!r}; expected a number above 1.")

    def _tp_plan(self) -> dict[str, str]:
        """How tensor parallelism splits the base model's matrices."""
        mlp = (
            {"experts.*.w1": "colwise", "experts.*.w3": "colwise", "experts.*.w2": "rowwise"}
            if self.num_experts
            else {"gate_proj": "colwise", "up_proj": "colwise", "down_proj": "rowwise"}
        )
        return {
            "layers.*.self_attn.q_proj": "colwise",
            "layers.*.self_attn.k_proj": "colwise",
            "layers.*.self_attn.v_proj": "colwise",
            "layers.*.self_attn.o_proj": "rowwise",
            **{f"layers.*.mlp.{name}": style for name, style in mlp.items()},
        }

    # transformers keeps both in `rope_parameters`. Its own setter loses the base.
    @property
    def rope_theta(self) -> float:
        """Base of the rotary frequencies."""
        if "rope_theta" not in (self.rope_parameters or {}):
            raise AttributeError("rope_theta is not set yet")
        return self.rope_parameters["rope_theta"]

    @rope_theta.setter
    def rope_theta(self, base: float) -> None:
        self.rope_parameters = {**(self.rope_parameters or {}), "rope_theta": base}

    @property
    def rope_scaling(self) -> Any:
        """What `rope_parameters` holds; what is set is the released form, None included."""
        return self.rope_parameters

    @rope_scaling.setter
    def rope_scaling(self, scaling: Mapping[str, Any] | None) -> None:
        rope = {"rope_theta": self.rope_theta, **(scaling or {})}
        rope.setdefault("rope_type", rope.get("type", "default"))
        self.rope_parameters = rope
        self._check()

    @property
    def residual_scale(self) -> float:
        """What every attention and MLP output is multiplied by before it is added."""
        return self.scale_depth / math.sqrt(self.num_hidden_layers)

    @property
    def logit_scale(self) -> float:
        """What the logits of the undivided hidden state are multiplied by: 1 / `logits_scaling`.

        Engines that run the base model and the head by themselves, such as vLLM's backend for
        transformers, read it.
        """
        return self.dim_model_base / self.hidden_size

    @property
    def logits_scaling(self) -> float:
        """What the last hidden state is divided by before the head."""
        return self.hidden_size / self.dim_model_base

    def _flat_values(self) -> dict[str, Any]:
        """Every field under the key that a released file gives it."""
        fields = PreTrainedConfig.to_dict(self)
        flat = {key: value for key, value in fields.items() if key not in _UNRELEASED_FIELDS}
        rope = self.rope_parameters
        flat["rope_theta"] = rope["rope_theta"]
        flat["rope_scaling"] = None
        if rope["rope_type"] != "default":
            ours = ("rope_type", "rope_theta", "type")
            rest = {key: value for key, value in rope.items() if key not in ours}
            flat["rope_scaling"] = {"type": rope["rope_type"], **rest}
        if self.dtype is not None:
            flat["torch_dtype"] = str(self.dtype).removeprefix("torch.")
        return flat

    def to_released_dict(self) -> dict[str, Any]:
        """As for every released file, with the `model_type` that those of text models lack.

        Fields that the file does not have and that say nothing are left out, but for
        `rope_scaling`: every released file has it, and 2B-128k is known by it.
        """
        known = {*self._released_values, "rope_scaling"}
        return {
            key: value
            for key, value in super().to_released_dict().items()
            if value is not None or key in known or key in (self._released or {})
        } | {"model_type": self.model_type}


__all__ = ["MiniCPMConfig"]
