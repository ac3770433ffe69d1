"""The tensors of a language model, from llama.cpp's names to the released ones."""

import math
import re
from typing import Any

from ...errors import short
from ..container import GGUFFile
from .recipes import Recipe, as_is

KINDS = ("qwen2", "llama", "minicpm")
_FIXED = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EXPERTS = {"ffn_gate_exps": "w1", "ffn_down_exps": "w2", "ffn_up_exps": "w3"}
# Tables that some converters wrote and that the model computes by itself.
_COMPUTED = re.compile(r"rope_freqs\.weight|rope_factors_(long|short)\.weight")


def number(file: GGUFFile, key: str, default: Any = None) -> Any:
    """A number of the language model by its key without the architecture.

    Raises:
        ValueError: it is missing and has no default, or is no number.
    """
    name = f"{file.metadata['general.architecture']}.{key}"
    value = file.metadata.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        found = "no" if value is None else f"{short(value)} as"
        raise ValueError(
            f"{str(file.path)!r} has {found} {name}, and the model cannot be built without that "
            "number. Get the file again, or convert the model anew."
        )
    return value


def positive(file: GGUFFile, key: str, default: Any = None) -> Any:
    """A number of the language model that the model is scaled by.

    Raises:
        ValueError: it is not above 0, or not finite, or as `number`.
    """
    value = number(file, key, default)
    if not 0 < value < math.inf:
        name = f"{file.metadata['general.architecture']}.{key}"
        raise ValueError(
            f"{str(file.path)!r} has {short(value)} as {name}; expected a finite number above 0. "
            "Get the file again, or convert the model anew."
        )
    return value


def token_id(file: GGUFFile, role: str) -> int | None:
    """The id of the token that begins, ends ... a text; None where the file has none.

    Raises:
        ValueError: it is no token's.
    """
    found = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
    if found is None:
        return None
    count = len(file.metadata.get("tokenizer.ggml.tokens", ()))
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < count:
        raise ValueError(
            f"{str(file.path)!r} says {role}_token_id {short(found)}, and has {count:,} tokens. "
            "Get it again."
        )
    return found


def language_recipes(file: GGUFFile, prefix: str, experts_at: str = "mlp") -> dict[str, Recipe]:
    """Every tensor of the language model by its released name.

    Args:
        prefix: before the names, "llm." or nothing.
        experts_at: what the released model calls the layer of experts.

    Raises:
        ValueError: the file has a tensor that the language models of this family do not have.
    """
    kind = file.metadata["general.architecture"]
    heads = number(file, "attention.head_count")
    turned = {"attn_q": heads, "attn_k": number(file, "attention.head_count_kv", heads)}
    found: dict[str, Recipe] = {}
    for name, info in file.tensors.items():
        if name in _FIXED:
            found[prefix + _FIXED[name]] = as_is(file, name)
            continue
        if _COMPUTED.fullmatch(name):
            continue
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        if match is None:
            raise _unknown(file, name)
        layer, part, end = match.groups()
        place = f"{prefix}model.layers.{layer}."
        if part in _LAYER:
            num_heads = turned.get(part, 0) if kind != "qwen2" else 0
            if num_heads and (info.shape[0] % (2 * num_heads)):
                raise ValueError(
                    f"{str(file.path)!r} has {name!r} with {info.shape[0]} rows, which are no "
                    f"pairs of {num_heads} heads. Get it again."
                )
            found[f"{place}{_LAYER[part]}.{end}"] = Recipe(file, (name,), info.shape, num_heads)
        elif part == "ffn_gate_inp":
            found[f"{place}{experts_at}.gate.{end}"] = as_is(file, name)
        elif part in _EXPERTS and len(info.shape) == 3:
            for expert in range(info.shape[0]):
                target = f"{place}{experts_at}.experts.{expert}.{_EXPERTS[part]}.{end}"
                found[target] = Recipe(file, (name,), info.shape[1:], expert=expert)
        else:
            raise _unknown(file, name)
    return found


def _unknown(file: GGUFFile, name: str) -> ValueError:
    return ValueError(
        f"{str(file.path)!r} has the tensor {short(name, 80)}, which no language model of this "
        "family has, so it is not one of them."
    )
