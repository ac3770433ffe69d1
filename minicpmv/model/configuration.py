"""Numbers and names of a model: `MiniCPMVConfig`, `OmniLMMConfig`, and those of their towers.

Released `config.json` files are flat: the language model's fields stand at the top, beside ours.
transformers wants them in `text_config`. Reading a flat file sorts the fields, takes what it
leaves unsaid from the release's row in `releases.py`, and remembers the file: saving writes that
file back, changed only where the model has changed.

The files of 1.0, 2.0 and OmniLMM-12B do not describe their vision tower: its shape is that of the
timm model of a name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..releases import Release, release_of
from .config_checks import TOWER_SIZES
from .flat_config import FlatConfigMixin

# Never moved into `text_config` when a flat file is read: they describe the file or the whole
# model.
_TOP_LEVEL_FIELDS = {
    "architectures",
    "auto_map",
    "dtype",
    "model_type",
    "name_or_path",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
}
# Serialised by transformers for its own sake; no released file has them.
_UNRELEASED_FIELDS = {
    "_name_or_path",
    "chunk_size_feed_forward",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "layer_types",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "rope_parameters",
    "transformers_version",
}
_VIT_FLAGS = ("has_class_token", "omits_key_bias", "post_norm")
_RELEASED_VISION_TYPES = {"2.5": "idefics2"}  # every other release says "siglip"
# Shapes of the towers that the releases know by timm's names.
_VISION_ENCODERS: dict[str, dict[str, Any]] = {
    "vit_so400m_patch14_siglip_384.webli": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "has_class_token": False,
        "omits_key_bias": False,
        "post_norm": False,
    },
    "eva02_enormous_patch14_clip_224.laion2b_plus": {
        "hidden_size": 1792,
        "intermediate_size": 15360,
        "num_hidden_layers": 64,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "has_class_token": True,
        "omits_key_bias": True,
        "post_norm": True,
    },
}


def vision_encoder_shape(name: str, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fields of `MiniCPMVViTConfig` for a timm model.

    Args:
        overrides: what differs from that model, in timm's words (`embed_dim`, `depth`, `num_heads`,
            `mlp_ratio`): the key `vision_tower_overrides` of small checkpoints for tests.

    Raises:
        ValueError: the name is not one of the two that were released, or an override is no number.
    """
    if name not in _VISION_ENCODERS:
        known = ", ".join(_VISION_ENCODERS)
        raise ValueError(
            f"vision_encoder {name!r} is not known. Known: {known}. For another tower of this "
            "kind, give its numbers as vision_config."
        )
    shape, overrides = dict(_VISION_ENCODERS[name]), overrides or {}
    if not isinstance(overrides, Mapping):
        raise ValueError(
            f"vision_tower_overrides is {overrides!r}; expected numbers for embed_dim, depth, "
            "num_heads, mlp_ratio."
        )
    for theirs in ("embed_dim", "depth", "num_heads", "mlp_ratio"):
        value = overrides.get(theirs, 1)
        kind = int | float if theirs == "mlp_ratio" else int
        if not isinstance(value, kind) or value <= 0:
            raise ValueError(
                f"vision_tower_overrides has {theirs} {value!r}; expected a number above 0."
            )
    mlp_ratio = overrides.get("mlp_ratio", shape["intermediate_size"] / shape["hidden_size"])
    for theirs, ours in (
        ("embed_dim", "hidden_size"),
        ("depth", "num_hidden_layers"),
        ("num_heads", "num_attention_heads"),
    ):
        shape[ours] = overrides.get(theirs, shape[ours])
    if overrides:
        shape["intermediate_size"] = int(shape["hidden_size"] * mlp_ratio)
    return shape


@strict
class MiniCPMVVisionConfig(PreTrainedConfig):
    """Shape of the vision tower (SigLIP-so400m in the releases).

    Fields:
        image_size, patch_size: in pixels; the learned position table has
            (image_size // patch_size) ** 2 rows.
        positions: "grid", two-dimensional buckets of each slice (2.6); "row", the slice as one row
            of patches as long as the longest of its sample (2.5). None means "grid".
        attend_padding: whether patches that pad a short slice take part in attention (2.5). None
            means no.
        batch_size: slices that go through the tower at once; bounds memory, changes nothing else.
    """

    model_type = "minicpmv_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 980
    patch_size: int = 14
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    positions: str | None = None
    attend_padding: bool | None = None
    batch_size: int = 16


@strict
class MiniCPMVViTConfig(PreTrainedConfig):
    """Shape of a vision tower in timm's layout (1.0 and 2.0 by default; OmniLMM-12B).

    Fields:
        image_size, patch_size: in pixels; the learned position table has
            (image_size // patch_size) ** 2 rows, and one for the class token.
        num_hidden_layers: the last one included, whether it is dropped or not.
        has_class_token: a token before the patches; it is dropped from the output.
        omits_key_bias: `q_bias` and `v_bias` instead of one bias for queries, keys and values.
        post_norm: whether attention and MLP are normalised after, and not before. None for these
            three means as the release does, and without one, no.
        batch_size: slices that go through the tower at once; bounds memory, changes nothing else.
    """

    model_type = "minicpmv_vit"
    base_config_key = "vision_config"
    attend_padding = False

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 384
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    has_class_token: bool | None = None
    omits_key_bias: bool | None = None
    post_norm: bool | None = None
    batch_size: int = 16


_VISION_CLASSES: dict[str, Any] = {"navit": MiniCPMVVisionConfig, "vit": MiniCPMVViTConfig}


@strict
class MiniCPMVConfig(FlatConfigMixin, PreTrainedConfig):
    """A MiniCPM-V model: vision tower, resampler, language model.

    Accepts the nested form (`text_config`, `vision_config`) and the flat form of released files.
    Every field of the language model can be read at the top too (`config.hidden_size`), as tools
    written for released files do.

    Fields:
        version: the release, e.g. "2.6"; decides what the released file leaves unsaid.
        query_num: visual tokens per slice (learned queries of the resampler).
        query_positions: whether the resampler adds its stored position table to the queries;
            key_positions: "sincos", computed for the slice's shape, or "table", that table
            enlarged. None: as the release does.
        slice_config: how pictures are cut, for the check against the processor (`scale_resolution`
            in pixels).
        image_token_id: the placeholder; image_start_id ... slice_end_id: the tags around it. Used
            to find the placeholders when a batch comes without `mm_token_type_ids` and
            `image_bound`.

    Raises:
        ValueError: the version is not known, or the file's language model cannot be told.
    """

    model_type = "minicpmv"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}
    attribute_map = {"num_queries": "query_num"}
    keys_to_ignore_at_inference = ["past_key_values"]
    released_architecture = "MiniCPMV"
    vision_encoder_key = "vision_encoder"

    text_config: Any = None
    vision_config: Any = None
    version: str | float | int | None = None
    query_num: int = 64
    image_size: int = 448
    patch_size: int = 14
    query_positions: bool | None = None
    key_positions: str | None = None
    slice_mode: bool | None = None
    slice_config: dict | None = None
    use_image_id: bool | None = None
    batch_vision_input: bool = True
    drop_vision_last_layer: bool | None = None
    image_token_id: int | None = None
    image_start_id: int | None = None
    image_end_id: int | None = None
    slice_start_id: int | None = None
    slice_end_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any):
        is_flat = self.text_config is None and "hidden_size" in kwargs
        if self.version is None and not is_flat:
            self.version = "2.6"
        said = {} if self.slice_mode is None else {"slice_mode": self.slice_mode}
        row = release_of({**kwargs, **said, "version": self.version})
        if row.model_type != self.model_type:
            raise ValueError(
                f"Release {row.version!r} is of model type {row.model_type!r}, and this config "
                f"says {self.model_type!r}."
            )
        self.version = row.version
        if self.slice_mode is None:
            self.slice_mode = row.slicing == "adaptive"

        if is_flat:
            kwargs = self._sort_flat_fields(row.text_model_type, kwargs)
        if not isinstance(self.text_config, PreTrainedConfig):
            fields = {"model_type": row.text_model_type, **(self.text_config or {})}
            fields.setdefault("tie_word_embeddings", self.tie_word_embeddings)
            self.text_config = CONFIG_MAPPING[fields["model_type"]](**fields)
        if row.vision_encoder is not None:
            kwargs.setdefault(self.vision_encoder_key, row.vision_encoder)
        if not isinstance(self.vision_config, PreTrainedConfig):
            fields = self.vision_config or self._encoder_shape(kwargs)
            vision_class = _VISION_CLASSES[row.vision_tower]
            if fields.get("model_type") in ("minicpmv_vision", "minicpmv_vit"):
                vision_class = CONFIG_MAPPING[fields["model_type"]]
            self.vision_config = vision_class(**fields)
        # One switch in released files; transformers looks at ours, tools may set the text's.
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        if self.drop_vision_last_layer is None:
            self.drop_vision_last_layer = is_flat  # an absent key means True in released files
        if self.use_image_id is None:
            self.use_image_id = row.use_image_id
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        self.auto_map: dict[str, str] = {}  # our classes are native; TRL reads a dict here

        if isinstance(self.vision_config, MiniCPMVVisionConfig):
            if self.vision_config.positions is None:
                self.vision_config.positions = row.vision_positions
            if self.vision_config.attend_padding is None:
                self.vision_config.attend_padding = row.attend_padding
        elif row.vision_encoder is not None:
            for name in _VIT_FLAGS:
                if getattr(self.vision_config, name) is None:
                    setattr(self.vision_config, name, _VISION_ENCODERS[row.vision_encoder][name])
        if self.query_positions is None:
            self.query_positions = row.query_positions
        if self.key_positions is None:
            self.key_positions = row.key_positions
        if row.token_ids.vocab_size == self.text_config.vocab_size and self.image_token_id is None:
            self.image_token_id = row.token_ids.image_token_id
            self.image_start_id = row.token_ids.image_start_id
            self.image_end_id = row.token_ids.image_end_id
            self.slice_start_id = row.token_ids.slice_start_id
            self.slice_end_id = row.token_ids.slice_end_id
        self._released: dict[str, Any] | None = {} if is_flat else None
        self._released_values: dict[str, Any] = {}

    def _sort_flat_fields(self, text_model_type: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Move the language model's fields into `text_config`; return the rest."""
        text_class = CONFIG_MAPPING[text_model_type]
        known = {field.name for field in dataclasses.fields(text_class)}
        known |= {"rope_theta", "rope_scaling", "head_dim", "sliding_window"}
        moved = {
            key: value
            for key, value in fields.items()
            if key in known and key not in _TOP_LEVEL_FIELDS
        }
        moved.setdefault("tie_word_embeddings", self.tie_word_embeddings)
        # Released files say `use_cache: false` to no effect: generation has always used the cache.
        moved.pop("use_cache", None)
        self.text_config = {"model_type": text_model_type, **moved}
        return {key: value for key, value in fields.items() if key not in moved}

    def _encoder_shape(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What `fields` say about a tower that timm describes; nothing about others."""
        name = fields.get(self.vision_encoder_key)
        if name is None:
            return {}
        return vision_encoder_shape(name, fields.get("vision_tower_overrides"))

    def __getattr__(self, name: str) -> Any:
        """A field of the language model, read at the top as in released files."""
        # Not before the end of __post_init__: transformers asks there what we have ourselves.
        if "_released_values" in self.__dict__ and not name.startswith("_"):
            text_config = self.text_config
            if name in text_config.__dict__:
                return getattr(text_config, name)
            if name == "rope_theta" and "rope_parameters" in text_config.__dict__:
                return text_config.rope_parameters["rope_theta"]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _flat_values(self) -> dict[str, Any]:
        """Every field under the key that a released file gives it."""
        text = self.text_config.to_dict()
        rope = dict(text.get("rope_parameters") or {})
        flat = {key: value for key, value in text.items() if key not in _UNRELEASED_FIELDS}
        flat["rope_theta"] = rope.pop("rope_theta", None)
        flat["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
        flat |= {
            key: value
            for key, value in PreTrainedConfig.to_dict(self).items()
            if key not in _UNRELEASED_FIELDS
        }
        for key in ("text_config", "vision_config", "auto_map", "dtype"):
            flat.pop(key, None)
        flat |= self._flat_vision_values()
        if self.dtype is not None:
            flat["torch_dtype"] = str(self.dtype).removeprefix("torch.")
        flat["architectures"] = [self.released_architecture]
        flat["model_type"] = self.model_type
        return flat

    def _flat_vision_values(self) -> dict[str, Any]:
        """`vision_config` of a released file; nothing where the name of the tower says it all."""
        tower = self.vision_config
        if isinstance(tower, MiniCPMVViTConfig):
            fields = {key: getattr(tower, key) for key in (*TOWER_SIZES, *_VIT_FLAGS)}
            if fields == self._encoder_shape(vars(self)):
                return {}
            return {"vision_config": fields | {"model_type": tower.model_type}}
        fields = {key: getattr(tower, key) for key in TOWER_SIZES}
        released_type = _RELEASED_VISION_TYPES.get(str(self.version), "siglip")
        if self.release.vision_tower != "navit":
            released_type = tower.model_type
        return {"vision_config": fields | {"model_type": released_type}}

    @property
    def release(self) -> Release:
        """The row of `releases.py` that this config belongs to."""
        return release_of({"version": self.version})


@strict
class OmniLMMConfig(MiniCPMVConfig):
    """OmniLMM-12B: EVA-02 tower, resampler, Mistral. Fields as in `MiniCPMVConfig`.

    The value of a file's `mm_vision_tower` is not read, nor was it by the released code: there is
    one tower.
    """

    model_type = "omnilmm"
    attribute_map = {"num_queries": "query_num", "num_query": "query_num"}
    released_architecture = "OmniLMMForCausalLM"
    vision_encoder_key = "mm_vision_tower"

    version: str | float | int | None = "omnilmm-12b"

    def _encoder_shape(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        name = self.release.vision_encoder
        assert name is not None
        return vision_encoder_shape(name, fields.get("vision_tower_overrides"))

    def _flat_values(self) -> dict[str, Any]:
        flat = super()._flat_values()
        flat["num_query"] = flat.pop("query_num")
        return flat


__all__ = ["MiniCPMVConfig", "MiniCPMVViTConfig", "MiniCPMVVisionConfig", "OmniLMMConfig"]
