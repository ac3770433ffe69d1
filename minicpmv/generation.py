"""Options to answers: the one place where a loaded model generates.

Every road (Python, command line, the released `chat()`) ends here. The tokens come from
transformers' `generate`; a faster engine takes its place behind `generate_ids` and `stream_ids`.

The repetition penalty counts new tokens only, as in the released code, which generates from
embeddings and so never shows the prompt to the penalty.
"""

import numbers
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import (
    BaseStreamer,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .versions import Release

_LONGEST_CLEAN_UP = 4  # characters of " 've"


@dataclass(frozen=True)
class _Option:
    """What a generation option may be; `needs` names the mode without which it has no effect."""

    kind: type
    above: float | None = None
    least: float | None = None
    most: float | None = None
    needs: str = ""
    hint: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError unless `value` is one of mine."""
        kinds: dict[type, Any] = {bool: bool, int: numbers.Integral, float: numbers.Real}
        is_flag = isinstance(value, bool)
        if not isinstance(value, kinds[self.kind]) or is_flag != (self.kind is bool):
            wanted = {bool: "True or False", int: "a whole number", float: "a number"}[self.kind]
            raise ValueError(f"{name} is {value!r}; it must be {wanted}.")
        if self.above is not None and not value > self.above:
            raise ValueError(f"{name} is {value}; it must be above {self.above}.{self.hint}")
        if self.least is not None and not value >= self.least:
            raise ValueError(f"{name} is {value}; it must be at least {self.least}.")
        if self.most is not None and not value <= self.most:
            raise ValueError(f"{name} is {value}; it must be at most {self.most}.")


_OPTIONS = {
    "sampling": _Option(bool),
    "do_sample": _Option(bool),
    "seed": _Option(int, least=0, most=2**63 - 1),
    "temperature": _Option(
        float,
        above=0,
        needs="sampling=True",
        hint=" For the likeliest answer pass sampling=False, num_beams=1.",
    ),
    "top_p": _Option(float, above=0, most=1, needs="sampling=True"),
    "top_k": _Option(int, least=1, needs="sampling=True"),
    "min_p": _Option(float, least=0, most=1, needs="sampling=True"),
    "repetition_penalty": _Option(float, above=0),
    "no_repeat_ngram_size": _Option(int, least=1),
    "num_beams": _Option(int, least=1),
    "length_penalty": _Option(float, needs="num_beams above 1"),
    "early_stopping": _Option(bool, needs="num_beams above 1"),
    "max_new_tokens": _Option(int, least=1),
    "min_new_tokens": _Option(int, least=0),
    "max_time": _Option(float, above=0),
}


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """What one call of `generate` will do: its config, and the two things that stand outside it."""

    config: GenerationConfig
    repetition_penalty: float
    seed: int | None


def plan_generation(
    processor: Any,
    stored: GenerationConfig | None,
    options: Mapping[str, Any],
) -> GenerationPlan:
    """Resolve options: the caller's, else `generation_config.json`'s, else the release's.

    Args:
        processor: `MiniCPMVProcessor`; it knows the release and the tokens that end an answer.
        stored: what the model brought from its `generation_config.json`.
        options: `sampling` (draw, or search with beams), `seed`, `temperature`, `top_p`, `top_k`,
            `min_p`, `repetition_penalty`, `no_repeat_ngram_size`, `num_beams`, `length_penalty`,
            `early_stopping`, `max_new_tokens`, `min_new_tokens`, `max_time` (seconds). A value of
            None means "not given".

    Raises:
        ValueError: an option is unknown, out of range, or would have no effect beside the others.
    """
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise ValueError(
            f"Unknown option {', '.join(map(repr, unknown))}. Known: {', '.join(_OPTIONS)}."
        )
    for name, value in given.items():
        _OPTIONS[name].check(name, value)
    seed = given.pop("seed", None)
    sampling = given.pop("sampling", None)
    file = _explicit_values(stored)
    if sampling is not None and given.get("do_sample", sampling) != sampling:
        raise ValueError(
            f"sampling={sampling} and do_sample={given['do_sample']} contradict each other; "
            "pass one."
        )
    draws = given.get("do_sample", file.get("do_sample", True) if sampling is None else sampling)

    release: Release = processor.release
    defaults = release.sampling
    if draws:
        values = {
            "do_sample": True,
            "top_p": defaults.top_p,
            "top_k": defaults.top_k,
            "temperature": defaults.temperature,
            "repetition_penalty": defaults.repetition_penalty,
        }
    else:
        values = {
            "do_sample": False,
            "num_beams": defaults.num_beams,
            "repetition_penalty": defaults.beam_repetition_penalty,
        }
    values |= {"max_new_tokens": release.max_new_tokens}
    if draws == file.get("do_sample", draws):
        values |= file
    values |= given | {"do_sample": draws}
    modes = {"": True, "sampling=True": draws, "num_beams above 1": values.get("num_beams", 1) > 1}
    for name in given:
        need = _OPTIONS[name].needs
        if not modes[need]:
            raise ValueError(f"{name} has no effect without {need}. Remove it, or pass {need}.")
    if values.get("min_new_tokens", 0) > values["max_new_tokens"]:
        raise ValueError(
            f"min_new_tokens is {values['min_new_tokens']} and max_new_tokens "
            f"{values['max_new_tokens']}; the first cannot be larger."
        )
    penalty = float(values.pop("repetition_penalty"))
    config = GenerationConfig(
        **values,
        eos_token_id=processor.terminator_ids,
        pad_token_id=processor.tokenizer.pad_token_id,
        repetition_penalty=1.0,
    )
    return GenerationPlan(config=config, repetition_penalty=penalty, seed=seed)


def _explicit_values(stored: GenerationConfig | None) -> dict[str, Any]:
    """The options that a checkpoint's `generation_config.json` sets."""
    values = {} if stored is None else stored.to_diff_dict()
    return {name: values[name] for name in _OPTIONS if values.get(name) is not None}


def generate_ids(
    model: Any,
    inputs: Mapping[str, Any],
    plan: GenerationPlan,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteria | None = None,
) -> torch.Tensor:
    """New token ids, with pad tokens after a terminator: (batch, new)."""
    prompt_length = inputs["input_ids"].shape[1]
    processors = LogitsProcessorList()
    if plan.repetition_penalty != 1.0:
        processors.append(
            RepetitionPenaltyLogitsProcessor(
                plan.repetition_penalty, prompt_ignore_length=prompt_length
            )
        )
    if plan.seed is not None:
        torch.manual_seed(plan.seed)
    with torch.inference_mode():
        ids = model.generate(
            **inputs,
            generation_config=plan.config,
            logits_processor=processors,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([stopping] if stopping else []),
        )
    return ids[:, prompt_length:]


def stream_ids(model: Any, inputs: Mapping[str, Any], plan: GenerationPlan) -> Iterator[int]:
    """New token ids of one sample, each as soon as it is known. Closing the iterator stops it.

    Raises:
        ValueError: several samples, or beams, which have no next token to show before they end.
    """
    if len(inputs["input_ids"]) != 1:
        raise ValueError(
            f"A stream answers one conversation; {len(inputs['input_ids'])} were given."
        )
    if (plan.config.num_beams or 1) > 1:
        raise ValueError("A stream cannot show beams. Pass num_beams=1, or sampling=True.")
    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    stop = _StopWhenSet()

    def work() -> None:
        try:
            generate_ids(model, inputs, plan, _QueueStreamer(tokens), stop)
        except BaseException as error:  # handed over to the reader, raised there
            tokens.put(error)
        else:
            tokens.put(None)

    worker = threading.Thread(target=work, name="minicpmv-generate", daemon=True)
    worker.start()
    try:
        while (item := tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.event.set()
        worker.join()


def stream_text(ids: Iterator[int], processor: Any, strip: bool = True) -> Iterator[str]:
    """Pieces of text, each as soon as later tokens cannot change it.

    Joined, they are `processor.decode_answer` of all ids.

    Held back are bytes that do not make a character yet and, where the release removes spaces
    before punctuation, the last word if it may turn out to be such punctuation.
    """
    cleans_up = processor.release.clean_up_spaces
    seen: list[int] = []
    shown = ""
    for token in ids:
        seen.append(token)
        text = processor.decode_answer(seen, strip=strip).rstrip("\ufffd")
        if cleans_up:
            last_word = text.rfind(" ", len(text) - _LONGEST_CLEAN_UP)
            text = text if last_word < 0 else text[:last_word]
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = processor.decode_answer(seen, strip=strip)
    if len(text) > len(shown):
        yield text[len(shown) :]


class _QueueStreamer(BaseStreamer):
    """Hands tokens over as they come; the first call brings the prompt, which is left out."""

    def __init__(self, tokens: queue.SimpleQueue):
        self.tokens = tokens
        self.seen_prompt = False

    def put(self, value: torch.Tensor) -> None:
        if self.seen_prompt:
            for token in value.flatten().tolist():
                self.tokens.put(token)
        self.seen_prompt = True

    def end(self) -> None:
        """Nothing to do: the worker says when it has ended."""


class _StopWhenSet(StoppingCriteria):
    """Ends the generation after the token in progress, once `event` is set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full(
            (input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool
        )
