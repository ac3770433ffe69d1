"""High-level inference: `ask` a loaded model, `stream` its answer, `batch` questions.

    chat = load("openbmb/MiniCPM-V-2_6")
    print(chat.ask("What is written on the sign?", ["street.jpg"]))

Pictures may be PIL images, paths, bytes, data URLs or http URLs. Messages are a list of
`{"role": "user" | "assistant" | "system", "content": text or list of blocks}`; a block is a string,
a PIL image, or a dictionary `{"type": "text" | "image" | "video", ...}`.
"""

import asyncio
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast
from weakref import WeakKeyDictionary

from .checkpoint.consistency import check_pair
from .conversation import Conversation
from .decisions.calibration import Calibration
from .decisions.decide import (
    STAND_IN,
    check_decision_options,
    decide_all,
    opening_of,
    without_stand_in,
)
from .decisions.decision import Decision
from .decisions.question import Kind, Orders, Question
from .engine.answer import Answer, AnswerStream
from .engine.batch import BatchError, answer_in_batches
from .engine.engine import Engine
from .engine.inputs import Settings, context_length
from .engine.limits import EngineLimits
from .engine.live import LiveAnswer
from .engine.options import PROCESSING, AnswerOptions, Option, checked
from .engine.plan import GenerationPlan, plan_generation
from .engine.protocols import CausalModel, Processor
from .engine.request import Messages, check_requests, messages_of, with_system
from .errors import ArgumentError
from .media.policy import MediaPolicy, use_policy
from .precision import Precision
from .processing.text import TextProcessor
from .releases import Release

__all__ = [
    "Answer",
    "AnswerStream",
    "BatchError",
    "Chat",
    "context_length",
]


_BATCH_SIZE = Option("batch_size", int, "requests that are answered together", least=1)


class Chat:
    """A loaded model with its processor.

    `ask`, `stream` and `batch` keep no state, so threads may share one `Chat`; what they ask at a
    time is answered together. `conversation()` begins a dialogue that has a history; `say`,
    `history`, `clear` and `system` are those of one default conversation that belongs to the
    `Chat`. `close`, or leaving a `with` block, ends what is being answered and frees its memory.

    Attributes:
        model, processor: the transformers objects; engine: generates the answers, and counts
            what it does (`engine.stats()`).
        name: what the model was loaded as.
        precision: the dtype that `load` chose, and why; None for a model that
            was not loaded by `load`.
        media_policy: where pictures and videos may come from; None: the policy of
            `use_policy`, else no restrictions but size.
    """

    def __init__(
        self,
        model: CausalModel,
        processor: Processor,
        name: str = "",
        precision: Precision | None = None,
        media_policy: MediaPolicy | None = None,
        limits: EngineLimits | None = None,
    ):
        _check_pair(model, processor, name)
        self.model: Any = model
        self.processor: Any = processor
        self.name = name
        self.precision = precision
        self.media_policy = media_policy
        self.engine = Engine(model, processor, limits)
        self._own: Conversation | None = None
        self._lock = threading.Lock()

    def _own_conversation(self) -> Conversation:
        """The default one. It refers to this object, so it is there only once it is used: else what
        nobody needs any more would stay until the garbage is collected."""
        if self._own is None:
            with self._lock:
                if self._own is None:
                    self._own = Conversation(self)
        return self._own

    @property
    def supports_images(self) -> bool:
        """False for a text model."""
        processor = self.engine.processor
        return isinstance(processor.release, Release) and not isinstance(processor, TextProcessor)

    @property
    def sees_pictures(self) -> bool:
        """The former name of `supports_images`."""
        warnings.warn(
            "Chat.sees_pictures is now called supports_images.", DeprecationWarning, stacklevel=2
        )
        return self.supports_images

    def ask(
        self,
        prompt: str | Messages,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        **options: Unpack[AnswerOptions],
    ) -> Answer:
        """Answer one question; no conversation is used or changed.

        Args:
            prompt: the question, or a whole conversation (few-shot examples, a past dialogue).
            images: shown before the question, in this order; a `VideoFile` among them is a video.
            videos: shown after the images, each a file (of which one frame a second is taken, at
                most 64) or a list of frames; encoded without image ids.
            options: those of `minicpmv.engine.options` (`sampling`, `temperature`, `num_beams`,
                `max_new_tokens`, `seed`, `max_slice_nums` ...); `system_prompt`; and
                `image_features` (num_slices, num_queries, hidden), computed before, in place of
                pixels.

        Raises:
            OSError: a file does not exist.
            ValueError: a picture cannot be read, or an option is unknown or without effect.
        """
        return self.answer_all([messages_of(prompt, images, videos)], **options)[0]

    def stream(
        self,
        prompt: str | Messages,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        **options: Unpack[AnswerOptions],
    ) -> AnswerStream:
        """Stream the answer of `ask`; with beam search it comes as one piece at the end.

        Wrong arguments raise here, not when the first piece is read.
        """
        return self.stream_conversation(messages_of(prompt, images, videos), **options)

    def batch(
        self,
        requests: Sequence[str | Messages | tuple[str, Iterable[Any]]],
        *,
        batch_size: int = 32,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Unpack[AnswerOptions],
    ) -> list[Answer]:
        """Answer many questions, `batch_size` at a time.

        Answers are in the order of the requests. Greedy answers, and those with a seed, are the
        same as those of `ask`.

        Args:
            requests: each a prompt, a `(prompt, images)` pair, or a conversation.
            on_progress: called with how many requests are done, and how many there are.

        Raises:
            BatchError: some requests failed; its `answers` are those to the others.
            ValueError: an option is wrong.
        """
        batch_size = _BATCH_SIZE.check(batch_size)
        if options.get("image_features") is not None:
            raise ArgumentError("`image_features` belong to one request; pass them to ask.")
        left: dict[str, Any] = dict(options)
        asked = left.pop("system_prompt", None)
        with use_policy(self.media_policy):
            return answer_in_batches(
                self.engine,
                check_requests(requests),
                lambda messages: with_system(messages, asked, self.system),
                batch_size=batch_size,
                on_progress=on_progress,
                options=left,
            )

    def decide(
        self,
        question: str | Messages,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        choices: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        kind: Kind = "choice",
        list_choices: bool = False,
        average_orders: bool | Orders = False,
        calibration: Calibration | str | Path | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Decision:
        """How likely each of several answers is: `decide(question, images, choices=["a", "b"])`.

        A choice counts with the probability that the model answers with exactly it and then ends,
        so that long and short ones are compared rightly. Nothing is drawn.

        Args:
            question: a question, or a whole conversation that asks one.
            choices: texts; or labels with the texts that count as them, as in
                `{"yes": ["Yes", "Yes."], "no": ["No", "No."]}`.
            kind: "choice"; "yesno" gives `Decision.probability` of the first choice, by default
                yes; "score" takes the choices as levels, the lowest first, and gives
                `Decision.score`.
            list_choices: writes the choices below the question. Left out, the model does not know
                them.
            average_orders: asks with the listed choices in all orders (up to 24, True or "all"), or
                with each at each place ("cyclic", or True for more than four choices).
            calibration: a file of `minicpmv calibrate`; one that was made for another model, other
                choices or another way of asking is refused.
            options: processing options of `ask`, and `system_prompt`.

        Raises:
            OSError: a file does not exist.
            ValueError: a choice is empty, given twice or too long, or as in `ask`.
        """
        text, before = (question, None) if isinstance(question, str) else ("", question)
        asked = Question.of(
            text,
            choices,
            kind=kind,
            list_choices=list_choices,
            average_orders=average_orders,
        )
        return self.decide_all(
            [asked], images, videos=videos, before=before, calibration=calibration, **options
        )[0]

    def decide_all(
        self,
        questions: Sequence[Question],
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        before: Messages | None = None,
        calibration: Calibration | str | Path | None = None,
        cancelled: threading.Event | None = None,
        **options: Unpack[AnswerOptions],
    ) -> list[Decision]:
        """Decide several questions about the same pictures, which are encoded once.

        Args:
            questions: from `minicpmv.Question.of`, which takes the arguments of `decide`.
            before: a conversation in place of pictures. Each question is added to its last message,
                or follows it where that is not a user's.
            cancelled: ends the work early with an error, once another thread sets it.
        """
        check_decision_options(options)
        found = None if calibration is None else Calibration.of(calibration)
        if found is not None:
            found.check(self.model, questions)
        shown, has_stand_in = opening_of(before, images, videos)
        with use_policy(self.media_policy):
            (conversation,), settings = self._resolved([shown], options)
            conversation = settings.read(conversation)
            if has_stand_in:
                conversation = without_stand_in(conversation)
            asked = [(question, conversation) for question in questions]
            decisions = decide_all(self.engine, asked, settings.after_reading(), cancelled)
        return decisions if found is None else [found.apply(each) for each in decisions]

    def decide_batch(
        self,
        requests: Sequence[tuple[Question, Iterable[Any], Iterable[Any]]],
        *,
        calibration: Calibration | str | Path | None = None,
        **options: Unpack[AnswerOptions],
    ) -> list[Decision]:
        """Decide questions about different pictures, together.

        Args:
            requests: each a question, its images and its videos.
        """
        check_decision_options(options)
        found = None if calibration is None else Calibration.of(calibration)
        if found is not None:
            found.check(self.model, [question for question, _, _ in requests])
        shown = [messages_of(STAND_IN, images, videos) for _, images, videos in requests]
        with use_policy(self.media_policy):
            conversations, settings = self._resolved(shown, options)
            asked = [
                (question, without_stand_in(conversation))
                for (question, _, _), conversation in zip(requests, conversations, strict=True)
            ]
            decisions = decide_all(self.engine, asked, settings)
        return decisions if found is None else [found.apply(each) for each in decisions]

    def conversation(self, system: str | None = None) -> Conversation:
        """Begin a conversation."""
        return Conversation(self, system=system)

    def close(self) -> None:
        """End what is being answered with an error, and free keys, values and features.

        The model itself is freed with the last reference to it; this `Chat` answers no more.
        """
        self.engine.close()

    def __enter__(self) -> "Chat":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The default conversation.

    def say(
        self,
        prompt: str,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        **options: Unpack[AnswerOptions],
    ) -> AnswerStream:
        """The next turn of the default conversation; see `Conversation.say`."""
        return self._own_conversation().say(prompt, images, videos=videos, **options)

    def clear(self) -> None:
        """Forget the default conversation, and what the engine remembers of any; `system` stays."""
        self._own_conversation().clear()
        self.engine.forget()

    @property
    def history(self) -> Messages:
        """Messages of the default conversation, a plain list that may be edited."""
        return self._own_conversation().history

    @history.setter
    def history(self, messages: Messages) -> None:
        self._own_conversation().history = messages

    @property
    def system(self) -> str | None:
        """System prompt of every request without one; None means that of the release."""
        return None if self._own is None else self._own.system

    @system.setter
    def system(self, system: str | None) -> None:
        self._own_conversation().system = system

    # Several conversations, or one with a cache: for callers that use the engine directly.

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that no answer could take, before there is a prompt.

        Raises:
            ArgumentError: one is unknown, out of range, or without effect beside the others.
        """
        checked({name: options.get(name) for name in PROCESSING}, PROCESSING)
        others = {name: value for name, value in options.items() if name not in PROCESSING}
        plan = plan_generation(self.processor, self.model.generation_config, others)
        context = context_length(self.model.config)
        must_fit = others.get("max_new_tokens") is not None and not others.get("up_to_context")
        if must_fit and plan.config.max_new_tokens >= context:
            raise ArgumentError(
                f"`max_new_tokens` is {plan.config.max_new_tokens}; it must be less than the "
                f"model's context, {context} tokens."
            )

    def prepare(
        self, conversations: Sequence[Messages], **options: Unpack[AnswerOptions]
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """Inputs on the model's device, and the plan, for one call of `generate`."""
        with use_policy(self.media_policy):
            conversations, settings = self._resolved(conversations, options)
            return self.engine.prepare(conversations, settings)

    def answer_all(
        self, conversations: Sequence[Messages], **options: Unpack[AnswerOptions]
    ) -> list[Answer]:
        """Answer conversations together."""
        with use_policy(self.media_policy):
            conversations, settings = self._resolved(conversations, options)
            return self.engine.answer_all(conversations, settings)

    def stream_conversation(
        self, conversation: Messages, *, strip: bool = True, **options: Unpack[AnswerOptions]
    ) -> AnswerStream:
        """Stream the answer to one conversation; `strip=False` keeps white space at both ends."""
        with use_policy(self.media_policy):
            conversations, settings = self._resolved([conversation], options)
            return self.engine.stream(conversations[0], settings, strip=strip)

    def live(
        self,
        prompt: Messages | str | Sequence[int],
        loop: asyncio.AbstractEventLoop,
        *,
        num_answers: int = 1,
        **options: Unpack[AnswerOptions],
    ) -> LiveAnswer:
        """Begin answers that are read from an event loop: `async for piece in chat.live(...)`.

        Reading pictures takes time: call it in another thread. See `Engine.live`; `prompt` is a
        conversation, or text or token ids that no template is put around.
        """
        with use_policy(self.media_policy):
            if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
                settings = self.engine.settings([], options)
                return self.engine.live(prompt, settings, loop, num_answers=num_answers)
            (conversation,), settings = self._resolved([cast(Messages, prompt)], options)
            return self.engine.live(conversation, settings, loop, num_answers=num_answers)

    def _resolved(
        self, conversations: Sequence[Messages], options: AnswerOptions
    ) -> tuple[list[Messages], Settings]:
        """The conversations with their system prompts, and what the options mean for them."""
        left: dict[str, Any] = dict(options)
        asked = left.pop("system_prompt", None)
        conversations = [self.processor.question(messages) for messages in conversations]
        standing = self.system
        conversations = [with_system(each, asked, standing) for each in conversations]
        return conversations, self.engine.settings(conversations, left)


# The processor that each model was found to belong with: reading a vocabulary takes a while.
_CONSISTENT: "WeakKeyDictionary[Any, weakref.ref[Any]]" = WeakKeyDictionary()


def _check_pair(model: CausalModel, processor: Processor, name: str) -> None:
    known = _CONSISTENT.get(model)
    if known is not None and known() is processor:
        return
    check_pair(model.config, processor, name)
    _CONSISTENT[model] = weakref.ref(processor)
