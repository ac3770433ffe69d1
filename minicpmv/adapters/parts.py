"""What of a model is trained: whole parts, and parts with low-rank adapters."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..errors import ArgumentError, short
from ..integrations.peft import imported, without_its_warnings

# Layers in these places have the products that adapters are made for.
_IN_TOWER = r"model\.vision_tower\.(?:encoder\.layers|blocks)\.\d+\..*"
_IN_RESAMPLER = r"model\.resampler\.(?:kv_proj|attn\.out_proj)"
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_ROUTER = "mlp.gate"  # of a mixture of experts: it chooses who computes
_NAMES = re.compile(r"[\w, ]+")


@dataclass(frozen=True)
class Parts:
    """Which parts of a model are trained, and how.

    Fields:
        language: its layers, whole or by adapters. Whole, the embeddings and the head are trained
            with them.
        resampler, vision: whole (True), by adapters ("lora"), or frozen (False).
        embeddings: embeddings and head whole, beside adapters.

    Raises:
        ArgumentError: nothing is trained, or adapters stand beside a language model that is trained
            whole.
    """

    language: Literal["full", "lora", "frozen"]
    resampler: bool | Literal["lora"]
    vision: bool | Literal["lora"]
    embeddings: bool = False

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise ArgumentError(f"`{name}` is {value!r}; known: {', '.join(map(repr, known))}.")
        trained = (self.language != "frozen", self.resampler, self.vision, self.embeddings)
        if not any(trained):
            raise ArgumentError("Nothing is trained: `language` is frozen, and all the others are.")
        if self.language == "full" and "lora" in (self.resampler, self.vision):
            raise ArgumentError(
                '`language` is trained whole; adapters of other parts stand beside "lora" and '
                '"frozen".'
            )

    @property
    def uses_lora(self) -> bool:
        return "lora" in (self.language, self.resampler, self.vision)


_KNOWN: dict[str, tuple[Any, ...]] = {
    "language": ("full", "lora", "frozen"),
    "resampler": (True, "lora", False),
    "vision": (True, "lora", False),
    "embeddings": (True, False),
}


@dataclass(frozen=True)
class LoraSettings:
    """Settings of the adapters.

    Fields:
        r: their rank; alpha: their sum is multiplied by `alpha / r`, with `rslora` by
            `alpha / sqrt(r)`.
        dropout: share of their inputs that is left out in training.
        targets: of the language model: "default" (its attention), "all-linear" (the MLP too),
            names of layers as "q_proj,v_proj", or a regular expression for whole names, ours or
            released ones, of any part.
        layers: numbers of the language model's layers that have adapters; all when empty.
        dora: magnitudes of the weights are trained apart.
    """

    r: int = 64
    alpha: float = 64
    dropout: float = 0.05
    targets: str = "default"
    rslora: bool = False
    dora: bool = False
    layers: tuple[int, ...] = ()


def apply_parts(model: Any, parts: Parts, lora: LoraSettings | None = None) -> Any:
    """Freeze a model but for `parts`, and give it adapters where those are asked for.

    Beside adapters, parameters that are trained become float32, whatever the base is in.

    Args:
        model: a model of this package. It is changed.
        lora: of the adapters; the default ones when left out.

    Returns:
        The model, or the `PeftModel` around it.

    Raises:
        ArgumentError: the model lacks a part, or no layer has a name of `targets`.
        ImportError: adapters are asked for, and PEFT is not installed.
    """
    lora = lora or LoraSettings()
    _check_has(model, parts)
    if parts.uses_lora:
        tuned = _with_adapters(model, parts, lora)
    else:
        tuned = model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_is_whole(name, parts))
    for name, parameter in tuned.named_parameters():
        if is_fixed(name):
            parameter.requires_grad_(False)
    if parts.uses_lora:
        widen_trained(tuned)
    settings = asdict(lora) if parts.uses_lora else {}
    tuned.__dict__["trained_parts"] = {"parts": asdict(parts), "lora": settings}
    return tuned


def has_vision(model: Any) -> bool:
    """Whether a model has a vision tower and a resampler."""
    return hasattr(getattr(model, "model", None), "resampler")


def is_fixed(name: str) -> bool:
    """Whether a parameter is the resampler's table of positions, which is never trained."""
    return "resampler." in name and name.endswith("pos_embed")


def widen_trained(model: nn.Module) -> None:
    """Keep in float32 what is trained: steps of an optimizer are smaller than bfloat16 shows."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32)


def _check_has(model: Any, parts: Parts) -> None:
    if has_vision(model):
        return
    for name in ("vision", "resampler"):
        if getattr(parts, name):
            raise ArgumentError(f"`{name}` cannot be trained: this is a text model and has none.")


def _is_whole(name: str, parts: Parts) -> bool:
    """Whether a parameter belongs to a part that is trained whole."""
    if name.startswith("model.vision_tower."):
        return parts.vision is True
    if name.startswith("model.resampler."):
        return parts.resampler is True
    if "embed_tokens." in name or name.startswith("lm_head."):
        return parts.language == "full" or parts.embeddings
    return parts.language == "full"


def _with_adapters(model: Any, parts: Parts, lora: LoraSettings) -> Any:
    peft = imported()
    patterns = []
    if parts.language == "lora":
        patterns.append(_targets(model, lora))
    if parts.vision == "lora":
        leaves = {name.rpartition(".")[2] for name in _linear_names(model, _IN_TOWER)}
        patterns.append(rf"{_IN_TOWER}\.(?:{'|'.join(sorted(leaves))})")
    if parts.resampler == "lora":
        patterns.append(_IN_RESAMPLER)
    whole = [
        *(["resampler"] if parts.resampler is True else []),
        *(["vision_tower"] if parts.vision is True else []),
        *(["embed_tokens", "lm_head"] if parts.embeddings else []),
    ]
    tied = parts.embeddings and bool(model.config.tie_word_embeddings)
    settings = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(f"(?:{pattern})" for pattern in patterns),
        modules_to_save=[name for name in whole if not (tied and name == "lm_head")] or None,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        ensure_weight_tying=tied,
    )
    with without_its_warnings():
        return peft.get_peft_model(model, settings)


def _targets(model: Any, lora: LoraSettings) -> str:
    """A regular expression of our names of the layers that get adapters."""
    numbers = rf"(?:{'|'.join(map(str, lora.layers))})" if lora.layers else r"\d+"
    start = r"model\.language_model" if has_vision(model) else "model"
    layer = rf"{start}\.layers\.{numbers}"
    place = rf"{layer}\..*"
    linear = [name for name in _linear_names(model, place) if not name.endswith(_ROUTER)]
    if not linear and lora.layers:
        last = model.config.get_text_config().num_hidden_layers - 1
        raise ArgumentError(f"`lora_layers` is {lora.layers}; the layers are 0 to {last}.")
    known = {name.rpartition(".")[2] for name in linear}
    targets = lora.targets.strip()
    if targets == "default":
        return rf"{layer}\.self_attn\.(?:{'|'.join(_ATTENTION)})"
    if targets == "all-linear":
        return rf"{place}\.(?:{'|'.join(sorted(known))})"
    if _NAMES.fullmatch(targets):
        asked = [part.strip() for part in targets.split(",") if part.strip()]
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise ArgumentError(
                f"`lora_targets` names {unknown[0]!r}, which no layer is called. Known: default, "
                f"all-linear, {', '.join(sorted(known))}, or a regular expression."
            )
        return rf"{place}\.(?:{'|'.join(asked)})"
    return _matching(model, targets, linear[0])


def _matching(model: Any, pattern: str, example: str) -> str:
    """A regular expression of the user's, by our names.

    Raises:
        ArgumentError: it is none, or finds no layer.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ArgumentError(f"`lora_targets` is no regular expression: {error}.") from error
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if any(wanted.fullmatch(name) for name in linear):
        found = [name for name in linear if wanted.fullmatch(name)]
    else:
        found = [name for name in linear if wanted.fullmatch(model.released_name(name))]
    if not found:
        raise ArgumentError(
            f"`lora_targets` {short(pattern)} finds no layer. A layer is called {example!r} here, "
            f"and {model.released_name(example)!r} in the released code."
        )
    return "|".join(map(re.escape, found))


def _linear_names(model: Any, pattern: str) -> list[str]:
    """Names of the linear layers in a place."""
    wanted = re.compile(pattern)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and wanted.fullmatch(name)
    ]


__all__ = ["LoraSettings", "Parts", "apply_parts", "has_vision", "is_fixed", "widen_trained"]
