"""MiniCPM's, Llama's and Mixtral's names, shapes and factors: how one is written as another.

    embed_tokens          x scale_emb
    o_proj, down_proj, w2 x scale_depth / sqrt(num_layers)
    lm_head               / (hidden_size / dim_model_base)

The head is taken from the embedding before that is scaled, when the two are one (tied); the
converted pair is not. The way back divides.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import LlamaConfig, MixtralConfig

from ..checkpoint.files import read_json_file
from ..checkpoint.tensors import check_tensors, differences
from ..checkpoint.weights import WeightFiles

Layout = Literal["llama", "mixtral", "minicpm"]

ARCHITECTURES: dict[Layout, str] = {
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "minicpm": "MiniCPMForCausalLM",
}
# Of every MiniCPM text model released; used where neither the caller nor config.json says.
RELEASED_SCALINGS = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}
# Under this key a converted config.json keeps them for the way back; other code passes it over.
SCALINGS_KEY = "minicpm"

_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "initializer_range",
    "attention_dropout",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


@dataclass(frozen=True)
class Source:
    """A checkpoint to convert. `config` is read as Llama's, which has MiniCPM's defaults.

    `prefix` stands before the names of its language model's tensors.
    """

    layout: Layout
    config: Any
    written: dict[str, Any]
    num_experts: int
    num_experts_per_token: int
    is_tied: bool
    prefix: str

    @classmethod
    def read(cls, folder: Path) -> "Source":
        written = read_json_file(folder / "config.json")
        layout = _layout_of(written, folder)
        is_vision = written.get("model_type") == "minicpmv"
        config_class = MixtralConfig if layout == "mixtral" else LlamaConfig
        # The type of another class would only bring a warning.
        config = config_class.from_dict({**written, "model_type": config_class.model_type})
        num_experts = num_experts_per_token = 0
        if layout == "minicpm":
            num_experts = written.get("num_experts", 0)
            num_experts_per_token = written.get("num_experts_per_tok", 0)
        elif layout == "mixtral":
            num_experts = config.num_local_experts
            num_experts_per_token = config.num_experts_per_tok
        # The released text configs say nothing and mean tied; those with a vision tower are not.
        tied_when_absent = layout == "minicpm" and not is_vision
        source = cls(
            layout=layout,
            config=config,
            written=written,
            num_experts=num_experts,
            num_experts_per_token=num_experts_per_token,
            is_tied=written.get("tie_word_embeddings", tied_when_absent),
            prefix="llm." if is_vision else "",
        )
        source.check(folder)
        return source

    def check(self, folder: Path) -> None:
        """Raise for what the other layout cannot express."""
        config, written, rope = self.config, self.written, self.config.rope_parameters
        is_quantised = (
            "quantization_config" in written or (folder / "quantize_config.json").exists()
        )
        problems = {
            "its weights are quantised; convert the full weights and quantise those": is_quantised,
            "its attention has biases": getattr(config, "attention_bias", False),
            "its MLPs have biases": getattr(config, "mlp_bias", False),
            "its attention slides": self.layout == "mixtral" and config.sliding_window is not None,
            "its head_dim is not hidden_size / num_attention_heads": (
                written.get("head_dim")
                not in (None, config.hidden_size // config.num_attention_heads)
            ),
            f"its rope is of type {self.rope_type!r}, and MiniCPM knows linear and dynamic": (
                self.rope_type not in ("default", "linear", "dynamic")
            ),
            "its rope counts from another length than max_position_embeddings": (
                rope.get("original_max_position_embeddings")
                not in (None, config.max_position_embeddings)
            ),
            "its rope turns a part of each head": (
                rope.get("partial_rotary_factor") not in (None, 1.0)
            ),
        }
        for problem, is_there in problems.items():
            if is_there:
                raise ValueError(f"{str(folder)!r} cannot be converted: {problem}.")

    @property
    def rope_type(self) -> str:
        return self.config.rope_parameters.get("rope_type", "default")

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """What the weight files must hold, without `prefix`."""
        return tensor_shapes(self.config, self.layout, self.num_experts, self.is_tied)


def tensor_shapes(
    config: Any, layout: Layout, num_experts: int, is_tied: bool
) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a language model, as it stands in files of this layout."""
    hidden, inner = config.hidden_size, config.intermediate_size
    narrow = hidden // config.num_attention_heads * config.num_key_value_heads
    layer = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
    }
    if num_experts:
        block = "mlp" if layout == "minicpm" else "block_sparse_moe"
        layer[f"{block}.gate"] = (num_experts, hidden)
        for expert in range(num_experts):
            layer[f"{block}.experts.{expert}.w1"] = (inner, hidden)
            layer[f"{block}.experts.{expert}.w2"] = (hidden, inner)
            layer[f"{block}.experts.{expert}.w3"] = (inner, hidden)
    else:
        layer["mlp.gate_proj"] = layer["mlp.up_proj"] = (inner, hidden)
        layer["mlp.down_proj"] = (hidden, inner)
    shapes = {
        f"model.layers.{i}.{name}.weight": shape
        for i in range(config.num_hidden_layers)
        for name, shape in layer.items()
    }
    shapes["model.embed_tokens.weight"] = (config.vocab_size, hidden)
    shapes["model.norm.weight"] = (hidden,)
    if not is_tied:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def _layout_of(config: dict[str, Any], folder: Path) -> Layout:
    architecture = (config.get("architectures") or [""])[0]
    for layout, known in ARCHITECTURES.items():
        if architecture == known or (not architecture and config.get("model_type") == layout):
            return layout
    if config.get("model_type") == "minicpmv" and "scale_emb" in config:
        return "minicpm"
    found = architecture or config.get("model_type") or "model of unknown type"
    raise ValueError(
        f"{str(folder)!r} is a {found}. "
        f"Only {', '.join(ARCHITECTURES.values())} and the language model of MiniCPM-V 1.0 and 2.0 "
        "can be converted."
    )


def target_layout(source: Source, to: Layout, model: str) -> Layout:
    if to not in ARCHITECTURES:
        raise ValueError(f"Layout {to!r} is not known. Known: {', '.join(ARCHITECTURES)}.")
    if (to == "minicpm") == (source.layout == "minicpm"):
        raise ValueError(
            f"{model!r} is in the layout of {source.layout} already, so --to {to} is not for it."
        )
    if to == "mixtral" and not source.num_experts:
        raise ValueError(f"{model!r} has no experts, so it has no Mixtral layout. Use --to llama.")
    return "mixtral" if to == "llama" and source.num_experts else to


@dataclass(frozen=True)
class Factors:
    """The scalings of a model, as its config says them and as its weights take them."""

    config: dict[str, float]
    embedding: float
    branch: float
    head: float

    @classmethod
    def of(cls, source: Source, given: dict[str, float]) -> "Factors":
        if source.layout == "minicpm":
            # Absent keys mean 1 in the released config class.
            config = {name: source.written.get(name, 1) for name in RELEASED_SCALINGS}
        else:
            config = RELEASED_SCALINGS | source.written.get(SCALINGS_KEY, {}) | given
        for name, value in config.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be greater than 0, and finite.")
        return cls(
            config=config,
            embedding=config["scale_emb"],
            branch=config["scale_depth"] / math.sqrt(source.config.num_hidden_layers),
            head=source.config.hidden_size / config["dim_model_base"],
        )


@dataclass(frozen=True)
class Move:
    """A tensor of the result: the tensor `source`, times `multiply`, over `divide`."""

    name: str
    source: str
    multiply: float = 1.0
    divide: float = 1.0


def plan_moves(source: Source, target: Layout, factors: Factors, is_tied: bool) -> list[Move]:
    """Every tensor of the result; no head when it `is_tied` to the embedding."""
    folds = target != "minicpm"
    ours, theirs = (".mlp.", ".block_sparse_moe.") if folds else (".block_sparse_moe.", ".mlp.")
    moves = []
    for name in source.tensor_shapes():
        factor = 1.0
        if name == "lm_head.weight":
            continue
        if name == "model.embed_tokens.weight":
            factor = factors.embedding
        elif name.endswith((".o_proj.weight", ".down_proj.weight", ".w2.weight")):
            factor = factors.branch
        new_name = name.replace(ours, theirs) if source.num_experts else name
        moves.append(Move(new_name, name, *((factor, 1.0) if folds else (1.0, factor))))
    if not is_tied:
        head = "model.embed_tokens.weight" if source.is_tied else "lm_head.weight"
        scaling = (1.0, factors.head) if folds else (factors.head, 1.0)
        moves.append(Move("lm_head.weight", head, *scaling))
    return moves


def was_tied(source: Source, weights: WeightFiles, factors: Factors, rows: int = 8192) -> bool:
    """Whether the head and the embedding of a folded model were one matrix.

    Each was multiplied and rounded on its own, an error of at most half an epsilon of the dtype
    each, so, divided again, they may differ by one epsilon of their size. One entry further apart,
    and they are two.
    """
    if source.is_tied:
        return False  # one matrix with the factors of both cannot be one without them
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    if embedding.dtype != head.dtype:
        return False
    info = torch.finfo(embedding.dtype)
    # Below the smallest normal number a rounding is no longer relative.
    slack = info.smallest_normal * info.eps * max(factors.head, 1)
    for start in range(0, len(head), rows):
        ours = embedding[start : start + rows].double() / factors.embedding
        theirs = head[start : start + rows].double() * factors.head
        if ((ours - theirs).abs() > info.eps * ours.abs() + slack).any():
            return False
    return True


def check_source(source: Source, weights: WeightFiles, model: str) -> None:
    """Raise when the weight files do not hold just what the config asks for."""
    expected = {source.prefix + name: shape for name, shape in source.tensor_shapes().items()}
    found = {name: s for name, s in weights.shapes.items() if name.startswith(source.prefix)}
    # Old files keep a table of positions, and may hold a tied head a second time.
    found = {name: s for name, s in found.items() if not name.endswith("rotary_emb.inv_freq")}
    optional = {"lm_head.weight"} - expected.keys() if source.is_tied else ()
    missing, unexpected, mismatched = differences(expected, found, optional)
    mismatched += [
        f"{name}, which holds no floating-point numbers"
        for name in expected
        if name in found and weights.dtypes[name] is None
    ]
    check_tensors(model, missing, unexpected, mismatched)


def target_config(
    source: Source, target: Layout, factors: Factors, is_tied: bool
) -> dict[str, Any]:
    """`config.json` of the result, in the keys of released files."""
    rope = source.config.rope_parameters
    has_scaling = source.rope_type != "default"
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[target]],
        "model_type": target,
        **{name: getattr(source.config, name) for name in _FIELDS},
        "rope_theta": rope["rope_theta"],
        "rope_scaling": (
            {"type": source.rope_type, "factor": float(rope["factor"])} if has_scaling else None
        ),
        "tie_word_embeddings": is_tied,
    }
    if target == "minicpm":
        config |= factors.config
        if source.num_experts:
            config["num_experts"] = source.num_experts
    else:
        config[SCALINGS_KEY] = factors.config
        if source.num_experts:
            config |= {"num_local_experts": source.num_experts, "sliding_window": None}
        else:
            config |= {"attention_bias": False, "mlp_bias": False}
    if source.num_experts:
        config["num_experts_per_tok"] = source.num_experts_per_token
    return config
