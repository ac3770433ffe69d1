"""Options to a plan: the caller's, else `generation_config.json`'s, else the release's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from transformers import GenerationConfig

from ..errors import ArgumentError
from ..releases import TextRelease
from .constraints import Constraint
from .detokenize import StopTexts
from .matching import Matcher, Vocabulary, vocabulary_of
from .options import GENERATION, checked
from .protocols import Processor

# Settings of a `generation_config.json` that `generate` knows and `sampling.choose` does not.
_OF_GENERATE = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "min_length",
    "num_return_sequences",
    "penalty_alpha",
    "remove_invalid_values",
    "renormalize_logits",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "top_h",
    "typical_p",
    "watermarking_config",
)


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """What one call of `generate` will do: its config, and the things that stand outside it.

    Fields:
        penalise_prompt: whether the penalty counts the prompt.
        stop: texts of the caller that end the answer, and are cut off.
        stops: makes what knows these and the texts of the release in the tokens of one answer; None
            when tokens alone end it.
        seed: of the random numbers of every answer; None takes torch's own.
        frequency_penalty, presence_penalty: of new tokens; see `sampling.Rules`.
        logit_bias: token ids, and what is added to their logits.
        logprobs: how many of the likeliest tokens each log-probability comes with; None: there are
            no log-probabilities.
        lookup: how many tokens are guessed ahead from what was there before; 0: none.
        constraint: what the answer matches; vocabulary: of the tokens that write it.
        only_generate: a setting of `generation_config.json` that only `generate` knows.
    """

    config: GenerationConfig
    repetition_penalty: float
    penalise_prompt: bool = False
    stop: tuple[str, ...] = ()
    stops: Callable[[], StopTexts] | None = None
    seed: int | None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    lookup: int = 0
    constraint: Constraint | None = None
    vocabulary: Vocabulary | None = None
    only_generate: str | None = None

    @property
    def num_beams(self) -> int:
        return self.config.num_beams or 1

    def matcher(self) -> Matcher | None:
        """Of the constraint, at the beginning of an answer."""
        if self.constraint is None or self.vocabulary is None:
            return None
        return self.vocabulary.matcher(self.constraint)

    def reader(self, processor: Processor) -> Processor:
        """What reads the tokens of an answer: under a constraint as they are spelt, no more and no
        less."""
        return processor if self.vocabulary is None else self.vocabulary.reader(processor)


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
    for name in ("min_new_tokens", "no_repeat_ngram_size", "min_p"):
        if getattr(stored, name, None) is not None:  # `generate` would fill it in
            values.setdefault(name, 0)
    elsewhere = ("sampling", "seed", "up_to_context")
    values |= {name: given[name] for name in given if name not in elsewhere}
    values["do_sample"] = draws
    _check_effect(given, draws, values.get("num_beams", 1))
    if values.get("min_new_tokens", 0) > values["max_new_tokens"]:
        raise ArgumentError(
            f"`min_new_tokens` is {values['min_new_tokens']} and `max_new_tokens` "
            f"{values['max_new_tokens']}; the first cannot be larger."
        )
    bias, ends = values.pop("logit_bias", {}), values.pop("stop_token_ids", ())
    size = len(processor.tokenizer)
    for name, tokens in (("logit_bias", bias), ("stop_token_ids", ends)):
        beyond = [token for token in tokens if token >= size]
        if beyond:
            raise ArgumentError(
                f"`{name}` names token {beyond[0]}; the vocabulary has {size}, from 0."
            )
    if values.pop("ignore_eos", False):
        values["suppress_tokens"] = list(processor.terminator_ids)
    own: dict[str, Any] = {
        "repetition_penalty": float(values.pop("repetition_penalty")),
        "frequency_penalty": values.pop("frequency_penalty", 0.0),
        "presence_penalty": values.pop("presence_penalty", 0.0),
        "logit_bias": tuple(sorted(bias.items())),
        "logprobs": values.pop("logprobs", None),
        "lookup": values.pop("prompt_lookup_num_tokens", 0),
        "stop": values.pop("stop", ()),
    }
    constraint = values.pop("constraint", None)
    vocabulary = None
    if constraint is not None:
        for name in ("no_repeat_ngram_size", "ignore_eos"):
            if given.get(name):
                raise ArgumentError(
                    f"`{name}` could forbid what `constraint` demands. Remove one of them."
                )
        values.pop("no_repeat_ngram_size", None)
        vocabulary = vocabulary_of(processor)
        vocabulary.matcher(constraint)  # so that it is compiled, or refused, here
    pad_id = processor.tokenizer.pad_token_id
    config = GenerationConfig(
        **values,
        eos_token_id=list(dict.fromkeys([*processor.terminator_ids, *ends])),
        pad_token_id=processor.terminator_ids[0] if pad_id is None else pad_id,
        repetition_penalty=1.0,
    )
    # Beams are compared at their full length, and the released code never ended there.
    stops = (
        release.stop_texts
        and constraint is None
        and (config.num_beams or 1) == 1
        and processor.compat != "released"
    )
    texts = (*(release.stop_texts if stops else ()), *own["stop"])
    reader = processor if vocabulary is None else vocabulary.reader(processor)
    return GenerationPlan(
        config=config,
        constraint=constraint,
        vocabulary=vocabulary,
        penalise_prompt=release.penalise_prompt,
        stops=partial(StopTexts, texts, reader) if texts else None,
        seed=given.get("seed"),
        only_generate=next((n for n in _OF_GENERATE if _has_effect(stored, n)), None),
        **own,
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
        "one beam": (num_beams == 1, "`num_beams=1`", "`num_beams=1`"),
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
def _usual() -> dict[str, Any]:
    """What `GenerationConfig` says by itself of the options that it knows."""
    untouched = GenerationConfig()
    return {name: getattr(untouched, name) for name in GENERATION if hasattr(untouched, name)}


def _explicit_values(stored: GenerationConfig | None) -> dict[str, Any]:
    """The options that a checkpoint's `generation_config.json` sets."""
    values = {name: getattr(stored, name, None) for name in _usual()}
    return {
        name: value
        for name, value in values.items()
        if value is not None and value != _usual()[name]
    }


def _has_effect(stored: GenerationConfig | None, name: str) -> bool:
    value = getattr(stored, name, None)
    return value not in (None, False, 0, 1, [], {})
