"""A loaded model, asked for what the table lists: through `Chat`, or through `generate`."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from .cases import CONTEXT, NEW_TOKENS, PICTURES, STREAM_CONTEXT, Sample
from .prompts import picture, prompt_of, words

Samples = dict[str, Sample]
# Answers of a random model may end anywhere; these do not.
_GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}


class Subject(Protocol):
    """Whatever can be measured.

    Fields:
        name: for people.
        facts: about it, for the head of the table.
    """

    name: str
    facts: dict[str, Any]

    def measure(self, run: str, wanted: Sequence[str], seed: int) -> Samples:
        """One run (`Figure.run`), by the names of the figures that were wanted.

        Args:
            seed: another one for every run, so that nothing was computed before.
        """

    def peak_bytes(self) -> int | None:
        """Most memory that it has had so far; None where that is not known."""

    def close(self) -> None:
        """Free what it holds."""


class ModelSubject(ABC):
    """What `ChatSubject` and `GenerateSubject` share: prompts, and the vision side.

    Args:
        owns_process: whether the memory of this process is that of this subject alone.
    """

    def __init__(self, chat: Any, streams: int, name: str, owns_process: bool = True):
        self.chat, self.model, self.processor = chat, chat.model, chat.processor
        self.streams = streams
        self.name = name
        self.owns_process = owns_process
        self.facts: dict[str, Any] = {}

    def measure(self, run: str, wanted: Sequence[str], seed: int) -> Samples:
        if run == "encode":
            return {"encode": self._encode(seed)}
        if run == "text":
            return self._text(wanted, seed)
        if run == "streams":
            return {"streams": self._streams(seed)}
        side = run.removeprefix("picture-")
        found = self._picture(PICTURES[side], seed, asks_twice=f"second-{side}" in wanted)
        return {f"{which}-{side}": sample for which, sample in found.items()}

    def peak_bytes(self) -> int | None:
        return peak_bytes(self.model.device) if self.owns_process else None

    def close(self) -> None:
        close = getattr(self.chat, "close", None)  # older builds have none
        if close is not None and self.owns_process:
            close()
        self.chat = self.model = self.processor = None

    def _encode(self, seed: int) -> Sample:
        """Tower and resampler on one slice, from pixels that are ready."""
        found = self._inputs([picture(PICTURES["448"], seed)], "?")
        given = {name: found[name] for name in ("pixel_values", "target_sizes")}
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        with torch.inference_mode():
            return timed(lambda: self.model.get_image_features(**given), self.model.device)

    def _inputs(self, images: Sequence[Any], text: str) -> dict[str, Any]:
        blocks = [{"type": "image", "image": image} for image in images]
        content: Any = [*blocks, {"type": "text", "text": text}] if images else text
        return self._batch([[{"role": "user", "content": content}]])

    def _batch(self, conversations: list[Any]) -> dict[str, Any]:
        inputs = self.processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    @abstractmethod
    def _text(self, wanted: Sequence[str], seed: int) -> Samples: ...

    @abstractmethod
    def _picture(self, side: int, seed: int, *, asks_twice: bool) -> Samples: ...

    @abstractmethod
    def _streams(self, seed: int) -> Sample: ...

    def _stream_prompts(self, seed: int) -> list[str]:
        """One of each stream; none begins as another does."""
        numbers = range(self.streams)
        return [prompt_of(self.processor, STREAM_CONTEXT, 1000 * seed + i) for i in numbers]


class ChatSubject(ModelSubject):
    """The public way: `Chat.ask` and `Chat.batch`."""

    def _text(self, wanted: Sequence[str], seed: int) -> Samples:
        prompt = prompt_of(self.processor, CONTEXT, seed)
        number = 1 + NEW_TOKENS * ("decode" in wanted)
        answer, cpu = self._answer(prompt, number)
        share = answer.prompt_seconds / max(answer.seconds, 1e-9)
        found = {
            "prefill": Sample(answer.prompt_seconds, cpu * share, answer.num_input_tokens),
            "decode": Sample(answer.decode_seconds, cpu * (1 - share), number - 1),
        }
        return {name: found[name] for name in wanted}

    def _picture(self, side: int, seed: int, *, asks_twice: bool) -> Samples:
        image, found = picture(side, seed), Samples()
        for name in ("first", "second") if asks_twice else ("first",):
            answer, cpu = self._answer(words(8, seed + len(found)), 1, [image])
            found[name] = Sample(answer.prompt_seconds, cpu, answer.num_input_tokens)
        return found

    def _streams(self, seed: int) -> Sample:
        """All at once, of prompts that were asked before: what is left is decoding together."""
        prompts = self._stream_prompts(seed)
        self.chat.batch(prompts, batch_size=self.streams, **self._options(1))
        before = time.process_time()
        options = self._options(1 + NEW_TOKENS)
        answers = self.chat.batch(prompts, batch_size=self.streams, **options)
        cpu = time.process_time() - before
        begin = min(answer.prompt_seconds for answer in answers)
        end = max(answer.seconds for answer in answers)
        return Sample(end - begin, cpu, sum(answer.num_output_tokens - 1 for answer in answers))

    def _answer(self, prompt: str, number: int, images: Sequence[Any] = ()) -> tuple[Any, float]:
        """An answer of so many tokens, and processor seconds."""
        before = time.process_time()
        answer = self.chat.ask(prompt, images, **self._options(number))
        return answer, time.process_time() - before

    def _options(self, number: int) -> dict[str, Any]:
        return {**_GREEDY, "max_new_tokens": number, "min_new_tokens": number}


class GenerateSubject(ModelSubject):
    """transformers' `generate`, which every build has."""

    def _text(self, wanted: Sequence[str], seed: int) -> Samples:
        number = 1 + NEW_TOKENS * ("decode" in wanted)
        prompt = prompt_of(self.processor, CONTEXT, seed)
        found = self._generate(lambda: self._inputs([], prompt), number)
        return {name: found[name] for name in wanted}

    def _picture(self, side: int, seed: int, *, asks_twice: bool) -> Samples:
        image, found = picture(side, seed), Samples()
        for name in ("first", "second") if asks_twice else ("first",):
            text = words(8, seed + len(found))
            found[name] = self._generate(partial(self._inputs, [image], text), 1)["prefill"]
        return found

    def _streams(self, seed: int) -> Sample:
        prompts = self._stream_prompts(seed)
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return self._generate(lambda: self._batch(conversations), 1 + NEW_TOKENS)["decode"]

    def _generate(self, inputs: Callable[[], dict[str, Any]], number: int) -> Samples:
        """From the messages to the first token, and from there to the last."""
        from transformers import StoppingCriteriaList

        moments = [self._moment()]
        made = inputs()

        def mark(input_ids: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
            moments.append(self._moment())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        with torch.inference_mode():
            self.model.generate(
                **made,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                max_new_tokens=number,
                min_new_tokens=number,
                stopping_criteria=StoppingCriteriaList([mark]),
            )
        (begin, begin_cpu), (first, first_cpu), (end, end_cpu) = moments[0], moments[1], moments[-1]
        rows, length = made["input_ids"].shape
        return {
            "prefill": Sample(first - begin, first_cpu - begin_cpu, rows * length),
            "decode": Sample(end - first, end_cpu - first_cpu, rows * (number - 1)),
        }

    def _moment(self) -> tuple[float, float]:
        _wait(self.model.device)
        return time.perf_counter(), time.process_time()


def subject_of(chat: Any, streams: int, name: str) -> ModelSubject:
    """Of a build whose answers have their times the public way, of an older one `generate`."""
    answer = chat.ask("a", sampling=False, num_beams=1, max_new_tokens=1)
    kind = ChatSubject if hasattr(answer, "decode_seconds") else GenerateSubject
    return kind(chat, streams, name)


def timed(call: Callable[[], Any], device: torch.device) -> Sample:
    """How long a call takes, until its device has done it."""
    _wait(device)
    cpu, begin = time.process_time(), time.perf_counter()
    call()
    _wait(device)
    return Sample(time.perf_counter() - begin, time.process_time() - cpu)


def peak_bytes(device: torch.device) -> int | None:
    """Most memory that this process has had: of the device, or resident in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
