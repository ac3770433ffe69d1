"""From messages to answers: the one place where a loaded model generates.

Everything (Python, command line, the released `chat()`, evaluation) ends here. An answer is
computed by the scheduler, together with all others; beams, and models that it does not know, by
transformers' `generate`. Threads may share an engine.
"""

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch

from ..model.input_checks import check_image_features
from .answer import Answer, AnswerStream
from .decoder import Decoder
from .features import FeatureCache
from .hf import Clock, LogprobRecord, StopWhenSet, generate_ids, stream_ids
from .inputs import Preparation, Settings, context_length
from .limits import EngineLimits, QueueFullError
from .live import LiveAnswer
from .plan import GenerationPlan
from .prompt import Medium, Prompt, media_by_content, places_of, prompt_of
from .protocols import CausalModel, Processor
from .reading import Reading
from .request import Messages, media_of
from .runtime import Runtime
from .sampling import Choice
from .scoring import Scores, by_forward, by_scheduler, check_continuations, check_room, give_keys
from .sequence import End, Generation
from .state import State, state_of, structure_of
from .vision import VisionEncoder


class _Asked(NamedTuple):
    """A prompt that was read, and what is to be done with it; no runtime: `generate` does it.

    Fields:
        mask: (1, seq), 0 where a token is hidden.
    """

    prompt: Prompt
    plan: GenerationPlan
    inputs: dict[str, Any]
    mask: torch.Tensor
    begin: float
    runtime: Runtime | None
    is_conversation: bool


class Engine:
    """A model and its processor as a function from messages to answers.

    Attributes:
        model, processor: as loaded.
        limits: memory and requests at a time.
    """

    def __init__(
        self, model: CausalModel, processor: Processor, limits: EngineLimits | None = None
    ):
        self.model = model
        self.processor = processor
        self.limits = EngineLimits.checked(limits)
        self._inputs = Preparation(model, processor)
        # Positions that stretch are a state of the model while `generate` works.
        self._stretches = _rope_type(model.config) in ("dynamic", "longrope")
        self._turn: AbstractContextManager[Any]
        self._turn = threading.Lock() if self._stretches else nullcontext()
        self._lock = threading.Lock()
        self._structure: tuple[Any, ...] = ()
        self._runtime: Runtime | None = None
        self._features = FeatureCache(self.limits.feature_bytes)
        self._forwarded: weakref.WeakSet[LiveAnswer] = weakref.WeakSet()
        self._closed = False
        self._fixed: State | None = None

    def fix_model(self) -> None:
        """Look no more for changes of the model before each request: there must be none, but before
        this is called again."""
        self._fixed = state_of(self.model)
        self._inputs.fix_model()
        if (runtime := self._current()) is not None:
            runtime.decoder.fix()

    def settings(self, conversations: Sequence[Messages], options: Mapping[str, Any]) -> Settings:
        """What the options mean for these conversations; see `Preparation.settings`."""
        return self._inputs.settings(conversations, options)

    def prepare(
        self, conversations: Sequence[Messages], settings: Settings
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """Model inputs on the model's device, and a plan whose answer ends where the context does.

        Raises:
            OSError: a file does not exist.
            ValueError: a picture cannot be read, or the prompt is too long.
        """
        inputs, plan = self._inputs.encode(conversations, settings)
        return {key: value.to(self.model.device) for key, value in inputs.items()}, plan

    def measure(self, messages: Messages, settings: Settings) -> tuple[int, int]:
        """Tokens of the prompt, and the most of its answer."""
        inputs, plan = self._inputs.encode([messages], settings, with_pixels=False)
        return inputs["input_ids"].shape[1], plan.config.max_new_tokens

    def stats(self) -> dict[str, dict[str, int]]:
        """Counters since the model was loaded.

        Returns:
            `requests` (running, waiting, finished, ...), `tokens` (of prompts, of these reused, new
            ones, guessed ones), `steps`, `prefixes` (keys and values that are remembered) and
            `features`; the last alone where `generate` answers, or when the engine is closed.
        """
        runtime = None if self._closed else self._current()
        features = {"features": self._features.stats()}
        if runtime is None:
            return features
        return {**runtime.scheduler.stats(), "prefixes": runtime.cache.stats(), **features}

    def forget(self) -> None:
        """Forget what is remembered: features, and keys and values that no request uses."""
        self._features.clear()
        if self._runtime is not None:
            self._runtime.cache.clear()

    def close(self) -> None:
        """End what is computed with an error, and free keys, values and features.

        The model itself stays; another request is refused.
        """
        with self._lock:
            self._closed = True
            runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.scheduler.close()
        for live in list(self._forwarded):
            live.fail(ValueError("The engine was closed before the answer was complete."))
        self._features.clear()

    def answer_all(self, conversations: Sequence[Messages], settings: Settings) -> list[Answer]:
        """Answer conversations together: in one padded batch where `generate` does it."""
        self._check_open()
        if self.uses_generate(settings):
            # What pads a row would count as its length, and stretch it.
            size = 1 if self._stretches else max(len(conversations), 1)
            starts = range(0, len(conversations), size)
            batches = [conversations[start : start + size] for start in starts]
            return [each for batch in batches for each in self._generated(batch, settings)]
        streams: list[AnswerStream] = []
        answers: list[Answer] = []
        left = deque(conversations)
        try:
            while left or len(answers) < len(streams):
                try:
                    while left:
                        streams.append(self.stream(left[0], settings, hides=True))
                        left.popleft()
                except QueueFullError:  # of these, or of others
                    if len(answers) == len(streams):
                        raise
                answers.append(streams[len(answers)].read())
            return answers
        finally:
            for stream in streams:
                stream.close()

    def stream(
        self,
        messages: Messages,
        settings: Settings,
        *,
        strip: bool = True,
        hides: bool = False,
        on_end: Callable[[], None] | None = None,
    ) -> AnswerStream:
        """Begin the answer to one conversation; that of beams comes as one piece at the end.

        Args:
            strip: whether white space is removed at both ends.
            hides: whether tokens that `compat="released"` hides from attention are hidden. The
                released stream hid none, the released answer did.
            on_end: called by the thread that computes when the answer is complete or has failed; at
                once where `generate` computes it while it is read.

        Raises:
            QueueFullError: too many requests wait.
        """
        asked = self._read_in(messages, settings, hides)
        reading = Reading(self.processor, asked.plan, len(asked.prompt.ids), strip)
        if asked.runtime is None:
            if on_end is not None:
                on_end()
            stop = StopWhenSet()
            return AnswerStream(self._pieces_of_generate(asked, reading, stop), stop.event.set)
        generation = Generation(asked.prompt, asked.plan, asked.begin, on_end)
        asked.runtime.scheduler.submit(generation)
        return AnswerStream(self._pieces(generation, reading), generation.cancel)

    def score(
        self, messages: Messages, settings: Settings, continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Natural log-probabilities of every token of each continuation after the prompt, by the
        softmax of the model's own logits; see `begin_score`."""
        return self.begin_score(messages, settings, continuations).read()

    def begin_score(
        self, messages: Messages, settings: Settings, continuations: Sequence[Sequence[int]]
    ) -> Scores:
        """Begin to score continuations; the scheduler computes them beside the answers.

        Raises:
            QueueFullError: too many requests wait.
            ValueError: the prompt or a continuation is wrong, or they are too long together.
        """
        begin = time.perf_counter()
        checked = check_continuations(continuations, len(self.processor.tokenizer))
        prompt, inputs, plan, state = self._prompt(messages, settings)
        longest = len(prompt.ids) + max(map(len, checked))
        check_room(len(prompt.ids), longest, context_length(self.model.config))
        runtime = self._current(state.structure) if inputs["attention_mask"].all() else None
        if runtime is None or not runtime.takes(longest):
            source = self._source(prompt, inputs, inputs["attention_mask"])
            return by_forward(self.model, source, checked, len(prompt.ids), self._turn)
        give_keys(prompt)
        return by_scheduler(prompt, plan, checked, begin, runtime.scheduler.submit)

    def live(
        self,
        prompt: Messages | str | Sequence[int],
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        *,
        num_answers: int = 1,
        keeps_end: bool = False,
    ) -> LiveAnswer:
        """Begin answers that are read from an event loop; any thread but the loop's may call.

        The prompt is computed once; with a `seed`, the i-th answer is drawn with `seed + i`.

        Args:
            prompt: a conversation; or text or token ids that no template is put around, whose
                answer goes on where it ends, white space and all.
            keeps_end: whether white space before a text of `stop` is not stripped.

        Raises:
            OSError, ValueError: as of `prepare`.
            QueueFullError: too many requests wait.
        """
        asked = self._read_in(prompt, settings, hides=True)
        if num_answers > 1:
            give_keys(asked.prompt)
        plans = [asked.plan]
        if asked.plan.seed is not None:
            plans = [replace(asked.plan, seed=asked.plan.seed + i) for i in range(num_answers)]
        plans = plans * (num_answers if len(plans) == 1 else 1)
        ids, before = asked.prompt.ids, () if asked.is_conversation else asked.prompt.ids
        readings = [
            Reading(self.processor, plan, len(ids), asked.is_conversation, before, keeps_end)
            for plan in plans
        ]
        if asked.runtime is not None:
            scheduler = asked.runtime.scheduler
            return LiveAnswer.computed(scheduler, asked.prompt, plans, asked.begin, readings, loop)

        def stream(index: int, stop: StopWhenSet) -> Generator[str | Answer, None, None]:
            own = asked._replace(plan=plans[index])
            return self._pieces_of_generate(own, readings[index], stop)

        live = LiveAnswer.forwarded(stream, num_answers, len(ids), loop)
        self._forwarded.add(live)
        return live

    def token_ids(
        self,
        prompt: Messages | str,
        settings: Settings | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> list[int]:
        """The tokens of a prompt as they are asked about, those of pictures among them.

        Args:
            settings: of a conversation.
            add_special_tokens: whether plain text is begun as every text of the vocabulary.
        """
        if isinstance(prompt, str):
            return self._inputs.ids_of(prompt, add_special_tokens)
        assert settings is not None
        read, settings = settings.read(prompt), settings.after_reading()
        inputs, _ = self._inputs.encode([read], settings, with_pixels=False)
        ids: list[int] = inputs["input_ids"][0].tolist()
        return ids

    def _read_in(
        self, prompt: Messages | str | Sequence[int], settings: Settings, hides: bool
    ) -> _Asked:
        """A prompt with its pictures opened, encoded, and who computes it."""
        begin = time.perf_counter()
        self._check_open()
        conversation = _conversation(prompt)
        if conversation is None:
            plain = cast(str | Sequence[int], prompt)
            inputs, plan = self._inputs.encode_plain(plain, settings)
            state = self._state()
            found = prompt_of(inputs["input_ids"], (), state.weights)
        else:
            found, inputs, plan, state = self._prompt(conversation, settings)
        mask = inputs["attention_mask"] if hides else torch.ones_like(inputs["attention_mask"])
        forwarded = _is_of_generate(plan) or not mask.all()
        runtime = None if forwarded else self._current(state.structure)
        longest = len(found.ids) + int(plan.config.max_new_tokens)
        if runtime is not None and not runtime.takes(longest):
            runtime = None
        return _Asked(found, plan, inputs, mask, begin, runtime, conversation is not None)

    def uses_generate(self, settings: Settings) -> bool:
        """Whether transformers' `generate` answers: for beams, and models unknown to the engine."""
        return _is_of_generate(settings.plan) or self._current() is None

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("The engine is closed. Load the model again to ask it.")

    def _current(self, structure: tuple[Any, ...] | None = None) -> Runtime | None:
        """What computes for the model, of this structure where it was just looked at; None:
        `generate` does."""
        if structure is None:
            structure = self._fixed.structure if self._fixed else structure_of(self.model)
        with self._lock:
            if structure != self._structure:
                former, self._runtime = self._runtime, None
                if former is not None:
                    former.scheduler.close()
                if Decoder.why_not(self.model) is None:
                    self._runtime = Runtime(self.model, self._features, self.limits, self._turn)
                self._structure = structure
            return self._runtime

    def _state(self) -> State:
        return self._fixed or state_of(self.model)

    def _prompt(
        self, messages: Messages, settings: Settings
    ) -> tuple[Prompt, dict[str, Any], GenerationPlan, State]:
        """A conversation as the scheduler sees it, its model inputs, and the model's state."""
        self._check_open()
        read = settings.read(messages)
        settings = settings.after_reading()
        with_pixels = self.processor.compat == "released" and settings.image_features is None
        inputs, plan = self._inputs.encode([read], settings, with_pixels=with_pixels)
        state = self._state()
        media = self._media(read, inputs, settings, state.weights)
        return prompt_of(inputs["input_ids"], media, state.weights), inputs, plan, state

    def _media(
        self,
        messages: Messages,
        inputs: Mapping[str, Any],
        settings: Settings,
        weights: bytes,
    ) -> list[Medium]:
        """What is shown, with its features where they are known, else its pixels."""
        mask = inputs.get("mm_token_type_ids")
        places = [] if mask is None else places_of(mask)
        if not places:
            return []
        config = self.model.config
        attends_padding = config.vision_config.attend_padding
        given = inputs.get("image_features")
        if given is not None:
            check_image_features(given, config.query_num, config.get_text_config().hidden_size)
            if len(given) * config.query_num != len(places):
                raise ValueError(
                    f"image_features are of {len(given)} slices; the prompt shows "
                    f"{len(places) // config.query_num}. Give those of its own pictures, cut alike."
                )
            return [Medium(None, places, features=given.flatten(0, 1))]
        sizes: torch.Tensor = inputs["target_sizes"]
        if "pixel_values" in inputs:
            longest = int(sizes.prod(dim=1).max()) if attends_padding else None
            return [Medium(None, places, longest, pixels=(inputs["pixel_values"], sizes))]
        blocks = list(media_of(messages))
        media = media_by_content(
            blocks,
            inputs["slices_per_image"].tolist(),
            sizes,
            places,
            config.query_num,
            attends_padding,
            weights,
        )
        for medium, block in zip(media, blocks, strict=True):
            assert medium.key is not None
            medium.features = self._features.get(medium.key)
            if medium.features is None:
                medium.pixels = self._inputs.pixels_of(block, settings)
        return media

    def _pieces(
        self, generation: Generation, reading: Reading
    ) -> Generator[str | Answer, None, None]:
        """The text of an answer that the scheduler computes."""

        def choices() -> Iterator[Choice]:
            while not isinstance(event := generation.events.get(), End):
                if isinstance(event, BaseException):
                    raise event
                yield event
            generation.reason = event.reason

        yield from reading.pieces(choices())
        yield reading.answer_of(generation, generation.reason)

    # By transformers' `generate`.

    def _generated(self, conversations: Sequence[Messages], settings: Settings) -> list[Answer]:
        clock = Clock()
        inputs, plan = self.prepare(conversations, settings)
        record = None if plan.logprobs is None else LogprobRecord(plan.logprobs)
        with self._turn:
            ids = generate_ids(self.model, inputs, plan, stopping=[clock], record=record)
        answers = []
        for index, (row, mask) in enumerate(
            zip(ids.tolist(), inputs["attention_mask"], strict=True)
        ):
            choices = map(Choice, row) if record is None else record.rows[index]
            reading = Reading(self.processor, plan, int(mask.sum()), strip=True)
            for _ in reading.pieces(choices):
                pass
            answers.append(self._read(reading, plan, clock))
        return answers

    def _source(
        self, prompt: Prompt, inputs: Mapping[str, Any], mask: torch.Tensor
    ) -> Callable[[], dict[str, Any]]:
        """What makes the inputs of `generate`, and encodes pictures that are not known."""
        made = {"input_ids": inputs["input_ids"], "attention_mask": mask}
        encoder = VisionEncoder(self.model) if prompt.media else None

        def source() -> dict[str, Any]:
            if encoder is not None:
                with torch.inference_mode():
                    for medium in prompt.media:
                        if medium.features is None:
                            assert medium.pixels is not None
                            features = encoder.encode(*medium.pixels, medium.longest)
                            medium.features = features.flatten(0, 1)
                            if medium.key is not None:
                                self._features.put(medium.key, medium.features)
                features = torch.cat([m.features for m in prompt.media if m.features is not None])
                made["mm_token_type_ids"] = inputs["mm_token_type_ids"]
                made["image_features"] = features.unflatten(0, (-1, self.model.config.query_num))
            return {name: value.to(self.model.device) for name, value in made.items()}

        return source

    def _pieces_of_generate(
        self, asked: _Asked, reading: Reading, stop: StopWhenSet
    ) -> Generator[str | Answer, None, None]:
        plan, source = asked.plan, self._source(asked.prompt, asked.inputs, asked.mask)
        clock = Clock(time.perf_counter() - asked.begin)
        record = None if plan.logprobs is None else LogprobRecord(plan.logprobs)
        tokens = stream_ids(self.model, source, plan, [clock, stop], self._turn, record)
        try:
            yield from reading.pieces(map(Choice, tokens))
        finally:
            tokens.close()
        if record is not None:
            reading.choices[:] = record.rows[0]
        yield self._read(reading, plan, clock)

    def _read(self, reading: Reading, plan: GenerationPlan, clock: Clock) -> Answer:
        num_tokens, reason = reading.end()
        counted = num_tokens if plan.num_beams == 1 else None
        return reading.answer(
            num_tokens, reason, clock.prompt_seconds, clock.decode_seconds(counted)
        )


def _conversation(prompt: Messages | str | Sequence[int]) -> Messages | None:
    """The prompt if it is one; None for text and token ids."""
    is_one = not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping)
    return cast(Messages, prompt) if is_one else None


def _is_of_generate(plan: GenerationPlan) -> bool:
    """Whether only transformers' `generate` can do what is asked."""
    return plan.num_beams > 1 or plan.only_generate is not None


def _rope_type(config: Any) -> str | None:
    rope: Mapping[str, Any] = config.get_text_config().rope_parameters or {}
    return rope.get("rope_type")
