"""Which fields of a config stand behind tensors that are not those of its weight files.

A list of shapes says what differs; these lines say where in `config.json` to look.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks)\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
# By the first words of tensor names, released and ours.
TOWERS = ("vpm.", "model.vision_tower.", "vision_tower.", "model.vpm.")
# Name, shape in the files, shape of the model.
Mismatch = tuple[str, Iterable[int], Iterable[int]]


def counts_in(names: Iterable[str]) -> dict[str, int]:
    """Numbers of layers of "text" and "vision", and of "experts", that names of tensors tell."""
    found: dict[str, int] = {}
    for name in names:
        layer = _LAYER.search(name)
        if layer:
            part = "vision" if name.startswith(TOWERS) else "text"
            found[part] = max(found.get(part, 0), int(layer[1]) + 1)
        expert = _EXPERT.search(name)
        if expert:
            found["experts"] = max(found.get("experts", 0), int(expert[1]) + 1)
    return found


def config_hints(config: Any, names: Iterable[str], mismatched: Iterable[Mismatch]) -> list[str]:
    """One phrase per field of the config that the weights contradict; none where nothing tells.

    Args:
        names: of all tensors of the checkpoint, released or ours.
        mismatched: the tensors of another shape.
    """
    hints: list[str] = []
    for name, found, expected in mismatched:
        pairs = zip(found, expected, strict=False)
        wrong = {there for here, there in pairs if here != there}
        sizes = _tower_sizes(config) if name.startswith(TOWERS) else _text_sizes(config)
        hints += [f"{field} {value}" for field, value, sides in sizes if wrong & set(sides)]
    return list(dict.fromkeys([*_count_hints(config, counts_in(names)), *hints]))


def _text_sizes(config: Any) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Field, its value, and the sides of tensors of the language model that follow from it."""
    text: Any = config.get_text_config()
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    yield "vocab_size", text.vocab_size, (text.vocab_size,)
    yield "hidden_size", text.hidden_size, (text.hidden_size, 3 * text.hidden_size)
    yield "intermediate_size", text.intermediate_size, (text.intermediate_size,)
    if heads * head_dim != text.hidden_size:
        yield "num_attention_heads", heads, (heads * head_dim,)
    yield "num_key_value_heads", kv_heads, (kv_heads * head_dim,)
    if getattr(config, "vision_config", None) is not None:
        query_field = "num_query" if config.model_type == "omnilmm" else "query_num"
        yield query_field, config.query_num, (config.query_num,)


def _tower_sizes(config: Any) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """The same of the vision tower."""
    vision = config.vision_config
    width, mlp = vision.hidden_size, vision.intermediate_size
    places = (vision.image_size // vision.patch_size) ** 2
    yield "vision_config.hidden_size", width, (width, 3 * width)
    yield "vision_config.intermediate_size", mlp, (mlp,)
    yield "vision_config.image_size", vision.image_size, (places, places + 1)
    yield "vision_config.patch_size", vision.patch_size, (vision.patch_size,)


def _count_hints(config: Any, found: dict[str, int]) -> list[str]:
    text: Any = config.get_text_config()
    vision = getattr(config, "vision_config", None)
    hints = []
    layers = found.get("text")
    if layers and layers != text.num_hidden_layers:
        said = text.num_hidden_layers
        hints.append(f"num_hidden_layers {said}, the weights have {layers}")
    layers = found.get("vision")
    if layers and vision is not None:
        said, dropped = vision.num_hidden_layers, bool(config.drop_vision_last_layer)
        if layers != said - dropped:
            hints.append(
                f"vision_config.num_hidden_layers {said} and "
                f"drop_vision_last_layer {str(dropped).lower()}, the weights have {layers}"
            )
    for field in ("num_experts", "num_local_experts"):
        said = getattr(text, field, None)
        if said is not None and said != found.get("experts", 0):
            hints.append(f"{field} {said}, the weights have {found.get('experts', 0)}")
    return hints
