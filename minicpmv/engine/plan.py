"""Options to a plan: the caller's, else `generation_config.json`'s, else the release's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import GenerationConfig

from ..errors import ArgumentError
from ..releases import TextRelease
from .options import GENERATION, checked


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """What one call of `generate` will do: its config, and the things that stand outside it.

    Fields:
        penalise_prompt: whether the penalty counts the prompt.
        has_stop_text: whether these new tokens hold a text that ends the answer; None when tokens
            alone do.
        seed: of the random numbers of every answer; None takes torch's own.
        frequency_penalty, presence_penalty: of new tokens; see `sampling.Rules`.
        logit_bias: token ids, and what is added to their logits.
        logprobs: how many of the likeliest tokens each log-probability comes with; None: none do.
    """

    config: GenerationConfig
    repetition_penalty: float
    penalise_prompt: bool = False
    has_stop_text: Callable[[Sequence[int]], bool] | None = None
    seed: int | None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    @property
    def num_beams(self) -> int:
        return self.config.num_beams or 1


def plan_generation(
    processor: Any,
    stored: GenerationConfig | None,
    options: Mapping[str, Any],
) -> GenerationPlan:
    """Resolve options: the caller's, else `generation_config.json`'s, else the release's.

    Args:
        processor: `MiniCPMVProcessor` or `TextProcessor`; it knows the release and the tokens that
            end an answer.
        stored: what the model brought from its `generation_config.json`.
        options: those of `options.GENERATION`; a value of None means "not given". With
            `sampling=False` a temperature of 0 is taken as another word for it.

    Raises:
        ValueError: an option is unknown, out of range, or would have no effect beside the others.
    """
    release: TextRelease = processor.release
    file = {
        name: value
        for name, value in _explicit_values(stored).items()
        if release.unused_settings.get(name) != value
    }
    draws = _draws(options, file.get("do_sample", release.sampling.draws))
    if not draws and _is_zero(options.get("temperature")):
        options = {name: value for name, value in options.items() if name != "temperature"}
    given = checked(options, GENERATION)
    values = _defaults(release, draws)
    if draws == file.get("do_sample", draws):
        values |= file
    values |= {name: given[name] for name in given if name not in ("sampling", "seed")}
    values["do_sample"] = draws
    _check_effect(given, draws, values.get("num_beams", 1))
    if values.get("min_new_tokens", 0) > values["max_new_tokens"]:
        raise ArgumentError(
            f"`min_new_tokens` is {values['min_new_tokens']} and `max_new_tokens` "
            f"{values['max_new_tokens']}; the first cannot be larger."
        )
    penalty = float(values.pop("repetition_penalty"))
    pad_id = processor.tokenizer.pad_token_id
    config = GenerationConfig(
        **values,
        eos_token_id=processor.terminator_ids,
        pad_token_id=processor.terminator_ids[0] if pad_id is None else pad_id,
        repetition_penalty=1.0,
    )
    # Beams are compared at their full length, and the released code never ended there.
    stops = release.stop_texts and (config.num_beams or 1) == 1 and processor.compat != "released"
    return GenerationPlan(
        config=config,
        repetition_penalty=penalty,
        penalise_prompt=release.penalise_prompt,
        has_stop_text=processor.has_stop_text if stops else None,
        seed=given.get("seed"),
    )


def _draws(options: Mapping[str, Any], usual: bool) -> bool:
    """Whether tokens are sampled: as asked for under either name, else as usual."""
    names = ("sampling", "do_sample")
    asked = checked({name: options.get(name) for name in names}, GENERATION)
    if len(set(asked.values())) > 1:
        raise ArgumentError(
            f"`sampling={asked['sampling']}` and `do_sample={asked['do_sample']}` contradict each "
            "other; pass one."
        )
    return next(iter(asked.values()), bool(usual))


def _is_zero(value: Any) -> bool:
    return value is not None and not isinstance(value, str) and value == 0


def _defaults(release: TextRelease, draws: bool) -> dict[str, Any]:
    """The settings of the released `chat()` in this mode."""
    defaults = release.sampling
    values: dict[str, Any] = {"max_new_tokens": release.max_new_tokens}
    if draws:
        return values | {
            "top_p": defaults.top_p,
            "top_k": defaults.top_k,
            "temperature": defaults.temperature,
            "repetition_penalty": defaults.repetition_penalty,
        }
    return values | {
        # Left out, `generate` would fill them in from the model's own settings, and warn.
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 50,
        "num_beams": defaults.num_beams,
        "repetition_penalty": defaults.beam_repetition_penalty,
    }


def _check_effect(given: Mapping[str, Any], draws: bool, num_beams: int) -> None:
    """Check that every option that was given has an effect beside the others."""
    modes = {
        "sampling": (draws, "`sampling=True`", "`sampling=True`"),
        "beams": (num_beams > 1, "`num_beams` above 1", "`num_beams=3`"),
    }
    for name in given:
        need = GENERATION[name].needs
        if need is None:
            continue
        holds, wanted, example = modes[need]
        if not holds:
            raise ArgumentError(
                f"`{name}` would have no effect without {wanted}. Remove it, or pass {example}."
            )


@cache
def _untouched() -> GenerationConfig:
    return GenerationConfig()


def _explicit_values(stored: GenerationConfig | None) -> dict[str, Any]:
    """The options that a checkpoint's `generation_config.json` sets."""
    values = {name: getattr(stored, name, None) for name in GENERATION}
    return {
        name: value
        for name, value in values.items()
        if value is not None and value != getattr(_untouched(), name, None)
    }
