"""Options to answers: the one place where a loaded model generates.

Every road (Python, command line, the released `chat()`) ends here. The tokens come from
transformers' `generate`; a faster engine takes its place behind `generate_ids` and `stream_ids`.

The repetition penalty of the releases that see pictures counts new tokens only, as in the released
code, which generates from embeddings and so never shows the prompt to the penalty. That of the text
models counts the prompt, too.
"""

import numbers
import queue
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import (
    BaseStreamer,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..releases import TextRelease

_LONGEST_CLEAN_UP = 4  # characters of " 've"
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of SentencePiece for one byte
_STOP_WINDOW = 16  # tokens; a stop text written in single bytes has 8


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
    "top_k": _Option(int, least=0, needs="sampling=True"),  # 0 draws from all tokens
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
    """What one call of `generate` will do: its config, and the things that stand outside it.

    Fields:
        penalise_prompt: whether the penalty counts the prompt.
        has_stop_text: whether these new tokens hold a text that ends the answer; None when tokens
            alone do.
    """

    config: GenerationConfig
    repetition_penalty: float
    penalise_prompt: bool = False
    has_stop_text: Callable[[Sequence[int]], bool] | None = None
    seed: int | None


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
    release: TextRelease = processor.release
    defaults = release.sampling
    file = {
        name: value
        for name, value in _explicit_values(stored).items()
        if release.unused_settings.get(name) != value
    }
    if sampling is not None and given.get("do_sample", sampling) != sampling:
        raise ValueError(
            f"sampling={sampling} and do_sample={given['do_sample']} contradict each other; "
            "pass one."
        )
    usual = file.get("do_sample", defaults.draws)
    draws = given.get("do_sample", usual if sampling is None else sampling)
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
            # Left out, `generate` would fill them in from the model's own settings, and warn.
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 50,
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
        seed=seed,
    )


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
    logits_processors: Sequence[LogitsProcessor] = (),
) -> torch.Tensor:
    """New token ids, with pad tokens after a terminator: (batch, new)."""
    prompt_length = inputs["input_ids"].shape[1]
    processors = LogitsProcessorList(logits_processors)
    if plan.repetition_penalty != 1.0:
        processors.append(
            _PenaltyOnPromptToo(plan.repetition_penalty, plan.config.pad_token_id)
            if plan.penalise_prompt
            else RepetitionPenaltyLogitsProcessor(
                plan.repetition_penalty, prompt_ignore_length=prompt_length
            )
        )
    criteria = StoppingCriteriaList([stopping] if stopping else [])
    if plan.has_stop_text is not None:
        criteria.append(_StopAtText(plan.has_stop_text, prompt_length))
    if plan.seed is not None:
        torch.manual_seed(plan.seed)
    with torch.inference_mode():
        ids = model.generate(
            **inputs,
            generation_config=plan.config,
            logits_processor=processors,
            streamer=streamer,
            stopping_criteria=criteria,
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

    Held back are bytes, which become a character or garbage together; where the release removes
    spaces before punctuation, the last word if it may turn out to be such punctuation; and what may
    become a text that ends the answer. Where a later token can change any of the text, all is.
    """
    seen: list[int] = []
    shown = ""
    for token in ids:
        seen.append(token)
        is_byte = _BYTE.fullmatch(str(processor.tokenizer.convert_ids_to_tokens(token)))
        if is_byte or not processor.text_only_grows:
            continue
        text = _settled(processor.decode_answer(seen, strip=strip), processor.release)
        text = text.rstrip() if strip else text
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = processor.decode_answer(seen, strip=strip)
    if len(text) > len(shown):
        yield text[len(shown) :]


def _settled(text: str, release: TextRelease) -> str:
    """The part of a growing answer that later tokens cannot change."""
    text = text.rstrip("\ufffd")
    if release.clean_up_spaces:
        last_word = text.rfind(" ", len(text) - _LONGEST_CLEAN_UP)
        text = text if last_word < 0 else text[:last_word]
    starts = (stop[:length] for stop in release.stop_texts for length in range(1, len(stop)))
    held = max((len(start) for start in starts if text.endswith(start)), default=0)
    return text[: len(text) - held]


def answer_end(ids: Sequence[int], processor: Any) -> int | None:
    """How many of the new tokens are the answer and what ended it; None when nothing did."""
    terminators = set(processor.terminator_ids)
    end = next((index + 1 for index, token in enumerate(ids) if token in terminators), None)
    if processor.release.stop_texts and processor.has_stop_text(ids[:end]):
        return bisect_left(
            range(len(ids)), True, key=lambda length: processor.has_stop_text(ids[:length])
        )
    return end


class _PenaltyOnPromptToo(RepetitionPenaltyLogitsProcessor):
    """Counts the prompt and not what pads it on the left."""

    def __init__(self, penalty: float, pad_token_id: int):
        super().__init__(penalty)
        self.pad_token_id = pad_token_id

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        is_padding = (input_ids != self.pad_token_id).cumsum(dim=1) == 0
        return super().__call__(torch.where(is_padding, input_ids[:, -1:], input_ids), scores)


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


class _StopAtText(StoppingCriteria):
    """Ends a row whose newest tokens write a text that ends answers."""

    def __init__(self, has_stop_text: Callable[[Sequence[int]], bool], prompt_length: int):
        self.has_stop_text = has_stop_text
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        start = max(self.prompt_length, input_ids.shape[1] - _STOP_WINDOW)
        ends = [self.has_stop_text(row) for row in input_ids[:, start:].tolist()]
        return torch.tensor(ends, device=input_ids.device)
