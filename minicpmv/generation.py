"""Options to answers: the one place where a loaded model generates.

Every road (Python, command line, the released `chat()`) ends here. The tokens come from
transformers' `generate`; a faster engine takes its place behind `generate_ids` and `stream_ids`.

The repetition penalty counts new tokens only, as in the released code, which generates from
embeddings and so never shows the prompt to the penalty.
"""

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

_SAMPLING_ONLY = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_LONGEST_CLEAN_UP = 4  # characters of " 've"
_BEAM_ONLY = ("length_penalty", "early_stopping")


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
        options: `sampling` (draw, or search with beams), `seed`, and any field of transformers'
            `GenerationConfig`, such as `temperature`, `top_p`, `top_k`, `num_beams`,
            `repetition_penalty`, `max_new_tokens`, `min_new_tokens`. A value of None means "not
            given".

    Raises:
        ValueError: an option is unknown, out of range, or would have no effect beside the others.
    """
    given = {name: value for name, value in options.items() if value is not None}
    seed = given.pop("seed", None)
    sampling = given.pop("sampling", None)
    known = GenerationConfig().to_dict()
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"Unknown option {', '.join(map(repr, unknown))}. Known: sampling, seed, temperature, "
            "top_p, top_k, repetition_penalty, num_beams, max_new_tokens, min_new_tokens, and the "
            "other fields of transformers.GenerationConfig."
        )
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
        ineffective = []
    else:
        values = {
            "do_sample": False,
            "num_beams": defaults.num_beams,
            "repetition_penalty": defaults.beam_repetition_penalty,
        }
        ineffective = [name for name in _SAMPLING_ONLY if name in given]
    values |= {"max_new_tokens": release.max_new_tokens}
    if draws == file.get("do_sample", draws):
        values |= {key: value for key, value in file.items() if key in known}
    values |= given | {"do_sample": draws}
    if values.get("num_beams", 1) == 1:
        ineffective += [name for name in _BEAM_ONLY if name in given]
    if ineffective:
        need = "sampling=True" if ineffective[0] in _SAMPLING_ONLY else "num_beams above 1"
        raise ValueError(
            f"{', '.join(ineffective)} has no effect without {need}. Remove it, or pass {need}."
        )
    if draws and not values["temperature"] > 0:
        raise ValueError(
            f"temperature is {values['temperature']}; it must be above 0. For the most likely "
            "answer pass sampling=False, num_beams=1."
        )
    for name, lowest in (("max_new_tokens", 1), ("min_new_tokens", 0), ("num_beams", 1)):
        if values.get(name) is not None and values[name] < lowest:
            raise ValueError(f"{name} is {values[name]}; it must be at least {lowest}.")
    penalty = float(values.pop("repetition_penalty"))
    if not penalty > 0:
        raise ValueError(f"repetition_penalty is {penalty}; it must be above 0 (1 means none).")
    config = GenerationConfig(
        **values,
        eos_token_id=processor.terminator_ids,
        pad_token_id=processor.tokenizer.pad_token_id,
        repetition_penalty=1.0,
    )
    return GenerationPlan(config=config, repetition_penalty=penalty, seed=seed)


def _explicit_values(stored: GenerationConfig | None) -> dict[str, Any]:
    """The fields that a checkpoint's `generation_config.json` sets, ids aside."""
    if stored is None:
        return {}
    values = stored.to_diff_dict()
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("_")
        and not key.endswith("_token_id")
        and value is not None
        and key not in ("transformers_version", "max_length", "use_cache")
    }


def generate_ids(
    model: Any,
    inputs: Mapping[str, Any],
    plan: GenerationPlan,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteria | None = None,
) -> torch.Tensor:
    """New token ids, with pad tokens after a terminator: (batch * num_return_sequences, new)."""
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
    if (plan.config.num_beams or 1) > 1 or (plan.config.num_return_sequences or 1) > 1:
        raise ValueError(
            "A stream cannot show beams or several sequences. Pass num_beams=1, or sampling=True."
        )
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
