"""From messages to answers: the one place where a loaded model generates.

Everything (Python, command line, the released `chat()`) ends here. The engine keeps nothing of what
it answers, and threads may share it; what a conversation remembers is in its `PromptCache`.
"""

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import ArgumentError
from ..releases import Release
from .answer import Answer, AnswerStream, FinishReason
from .cache import PromptCache, can_be_reused
from .detokenize import answer_end, stream_text
from .hf import Clock, generate_ids, stream_ids
from .options import PROCESSING, checked
from .pictures import with_pictures_read
from .plan import GenerationPlan, plan_generation
from .protocols import CausalModel, Processor
from .request import Messages, check_effect, shows_pictures
from .turns import cached_inputs


@dataclass(frozen=True)
class Settings:
    """Options of one call, resolved.

    Fields:
        processing: keywords of the processor.
        max_inp_length: a longer prompt is an error.
        max_new_tokens: as asked for; None when not.
    """

    plan: GenerationPlan
    processing: Mapping[str, Any]
    max_inp_length: int | None
    max_new_tokens: int | None
    image_features: torch.Tensor | None

    def read(self, messages: Messages) -> Messages:
        """The messages with PIL images in place of whatever stands for pictures and frames."""
        chosen = {name: self.processing.get(name) for name in ("num_frames", "fps")}
        return with_pictures_read(messages, **chosen, copy=False)

    def after_reading(self) -> "Settings":
        """These settings for messages whose frames have been chosen."""
        names = ("num_frames", "fps")
        left = {name: self.processing[name] for name in self.processing if name not in names}
        return replace(self, processing=left)


class Engine:
    """A model and its processor as a function from messages to answers."""

    def __init__(self, model: CausalModel, processor: Processor):
        self.model = model
        self.processor = processor
        # Positions that stretch are a state of the model while it generates.
        stretches = _rope_type(model.config) in ("dynamic", "longrope")
        self._turn: AbstractContextManager[Any] = threading.Lock() if stretches else nullcontext()

    def settings(self, conversations: Sequence[Messages], options: Mapping[str, Any]) -> Settings:
        """What the options mean for these conversations.

        Args:
            conversations: in the one form of `Processor.question`, as everywhere here.

        Raises:
            ValueError: an option is unknown, out of range or without effect.
        """
        options = dict(options)
        image_features = options.pop("image_features", None)
        if image_features is not None and not isinstance(image_features, torch.Tensor):
            raise ArgumentError(
                f"`image_features` is {type(image_features).__name__}; it must be a tensor "
                "(num_slices, query_num, hidden)."
            )
        processing = checked({name: options.pop(name, None) for name in PROCESSING}, PROCESSING)
        check_effect(processing, conversations)
        limit = processing.pop("max_inp_length", None)
        if self.processor.compat == "released" and isinstance(self.processor.release, Release):
            # Where the released code cuts a prompt.
            cut = self.processor.release.max_inp_length if limit is None else limit
            processing["max_inp_length"], limit = cut, None
        plan = plan_generation(self.processor, self.model.generation_config, options)
        return Settings(plan, processing, limit, options.get("max_new_tokens"), image_features)

    def prepare(
        self, conversations: Sequence[Messages], settings: Settings, with_pixels: bool = True
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """Model inputs on the model's device, and a plan whose answer ends where the context does.

        Without pixels they hold what the sizes of the pictures tell: the text, and
        `slices_per_image`.

        Raises:
            ValueError: a picture cannot be read, or the prompt is too long.
        """
        processing = dict(settings.processing)
        features = settings.image_features
        shows = any(shows_pictures(messages) for messages in conversations)
        if shows and not (with_pixels and features is None):
            processing["return_pixel_values"] = False
        inputs = self._inputs(conversations, processing)
        num_tokens = inputs["input_ids"].shape[1]
        limit = settings.max_inp_length
        if limit is not None and num_tokens > limit:
            raise ArgumentError(
                f"The prompt has {num_tokens} tokens and `max_inp_length` is {limit}; cutting it "
                f"would lose the end of the question. {self._less()} the text, or raise "
                "`max_inp_length`."
            )
        plan = self._within_context(num_tokens, settings)
        if features is not None:
            names = ("input_ids", "attention_mask", "mm_token_type_ids")
            inputs = {name: inputs[name] for name in names if name in inputs}
            inputs["image_features"] = features
        return {key: value.to(self.model.device) for key, value in inputs.items()}, plan

    def measure(self, messages: Messages, settings: Settings) -> tuple[int, int]:
        """Tokens of the prompt, and the most of its answer."""
        inputs, plan = self.prepare([messages], settings, with_pixels=False)
        return inputs["input_ids"].shape[1], plan.config.max_new_tokens

    def answer_all(self, conversations: Sequence[Messages], settings: Settings) -> list[Answer]:
        """Answer conversations in one padded batch."""
        clock = Clock()
        inputs, plan = self.prepare(conversations, settings)
        with self._turn:
            rows = generate_ids(self.model, inputs, plan, stopping=[clock]).tolist()
        return [
            self._answer(self.processor.decode_answer(row), row, int(mask.sum()), plan, clock)
            for row, mask in zip(rows, inputs["attention_mask"], strict=True)
        ]

    def stream(
        self,
        messages: Messages,
        settings: Settings,
        *,
        strip: bool = True,
        cache: PromptCache | None = None,
    ) -> AnswerStream:
        """Stream the answer to one conversation; that of beams comes as one piece at the end.

        Args:
            strip: whether white space is removed at both ends.
            cache: of earlier turns; the pictures of the conversation are PIL images then.
        """
        begin = time.perf_counter()
        if settings.image_features is not None or self.processor.compat == "released":
            cache = None
        inputs, plan = self.prepare([messages], settings, with_pixels=cache is None)
        ids = inputs["input_ids"]
        if cache is not None and not can_be_reused(self.model.config, ids.shape[1]):
            cache.clear()
            cache = None
            inputs, plan = self.prepare([messages], settings)
        # One conversation has no padding; under compat="released" the released stream masked
        # nothing either.
        inputs["attention_mask"] = torch.ones_like(ids)
        source: Callable[[], dict[str, Any]] = lambda: inputs  # noqa: E731
        if cache is not None:
            source = cached_inputs(
                cache, self.model, inputs, messages, plan, self._pixels_of(settings)
            )
        return AnswerStream(
            self._pieces(source, ids, plan, strip, cache, time.perf_counter() - begin)
        )

    def _pieces(
        self,
        source: Callable[[], dict[str, Any]],
        ids: torch.Tensor,
        plan: GenerationPlan,
        strip: bool,
        cache: PromptCache | None,
        seconds_before: float,
    ) -> Generator[str | Answer, None, None]:
        clock = Clock(seconds_before)
        tokens = stream_ids(self.model, source, plan, [clock], self._turn)
        text, seen = "", list[int]()

        def remember() -> Generator[int, None, None]:
            for token in tokens:
                seen.append(token)
                yield token

        try:
            for piece in stream_text(remember(), self.processor, strip):
                text += piece
                if plan.num_beams == 1:
                    yield piece
        except Exception:
            if cache is not None:
                cache.clear()
            raise
        finally:
            tokens.close()
        if cache is not None:
            cache.extend(ids, seen)
        if plan.num_beams > 1 and text:
            yield text
        yield self._answer(text, seen, ids.shape[1], plan, clock)

    def _inputs(self, conversations: Sequence[Messages], processing: Mapping[str, Any]) -> Any:
        return self.processor.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs=processing,
        )

    def _pixels_of(self, settings: Settings) -> Callable[[list[dict[str, Any]]], Any]:
        """What makes `pixel_values` and `target_sizes` of blocks."""

        def pixels_of(blocks: list[dict[str, Any]]) -> Any:
            content = [*blocks, {"type": "text", "text": "?"}]
            return self._inputs([[{"role": "user", "content": content}]], settings.processing)

        return pixels_of

    def _within_context(self, num_prompt_tokens: int, settings: Settings) -> GenerationPlan:
        """Let the answer end where the model's context does; a prompt that fills it is an error."""
        room = context_length(self.model.config) - num_prompt_tokens
        config = copy(settings.plan.config)
        wanted = settings.max_new_tokens
        least = max(config.min_new_tokens or 1, wanted or 1)
        if room < least:
            name = "max_new_tokens" if wanted or least == 1 else "min_new_tokens"
            asked = f"; `{name}` is {least}" if least > 1 else ""
            raise ArgumentError(
                f"The prompt has {num_prompt_tokens} tokens and the model's context "
                f"{num_prompt_tokens + room}, which leaves {max(room, 0)} for the answer"
                f"{asked}. {self._less()} the text, or lower `{name}`."
            )
        config.max_new_tokens = min(config.max_new_tokens, room)
        return replace(settings.plan, config=config)

    def _less(self) -> str:
        if not isinstance(self.processor.release, Release):
            return "Shorten"
        return "Give fewer pictures or frames (`num_frames`), lower `max_slice_nums`, shorten"

    def _answer(
        self,
        text: str,
        ids: Sequence[int],
        num_input_tokens: int,
        plan: GenerationPlan,
        clock: Clock,
    ) -> Answer:
        end = answer_end(ids, self.processor)
        reason: FinishReason = "stop"
        if end is None:
            is_full = len(ids) >= plan.config.max_new_tokens
            reason = "length" if is_full or plan.config.max_time is None else "time"
        num_tokens = len(ids) if end is None else end
        return Answer(
            text,
            num_input_tokens=num_input_tokens,
            num_output_tokens=num_tokens,
            finish_reason=reason,
            prompt_seconds=clock.prompt_seconds,
            decode_seconds=clock.decode_seconds(num_tokens if plan.num_beams == 1 else None),
        )


def context_length(config: Any) -> int:
    """Most tokens of a prompt and its answer together."""
    text = config.get_text_config()
    rope = text.rope_parameters or {}
    stretches = rope.get("rope_type") == "dynamic"
    return int(text.max_position_embeddings * (rope["factor"] if stretches else 1))


def _rope_type(config: Any) -> str | None:
    rope: Mapping[str, Any] = config.get_text_config().rope_parameters or {}
    return rope.get("rope_type")
