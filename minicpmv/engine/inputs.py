"""Messages and options to model inputs and a plan: what is resolved before anything is computed."""

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, cast

import torch

from ..errors import ArgumentError, PromptTooLongError, short
from ..processing.encoding import ids_of
from ..processing.planned import planned_inputs
from ..releases import Release
from .options import PROCESSING, checked
from .pictures import with_pictures_read
from .plan import GenerationPlan, plan_generation
from .prompt import Pixels
from .protocols import CausalModel, PictureProcessor, Processor
from .request import Messages, check_effect, shows_pictures

_MOST_PLANS = 64


@dataclass(frozen=True)
class Settings:
    """Options of one call, resolved.

    Fields:
        processing: keywords of the processor.
        max_inp_length: a longer prompt is an error.
        max_new_tokens: that there must be room for; None when not asked for.
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

    def capped(self, most: int) -> "Settings":
        """These settings, with answers of at most `most` tokens where no length was asked for."""
        if self.max_new_tokens is not None:
            return self
        config = copy(self.plan.config)
        config.max_new_tokens = min(config.max_new_tokens, most)
        return replace(self, plan=replace(self.plan, config=config))

    def after_reading(self) -> "Settings":
        """These settings for messages whose frames have been chosen."""
        names = ("num_frames", "fps")
        left = {name: self.processing[name] for name in self.processing if name not in names}
        return replace(self, processing=left)


class Preparation:
    """What a model and its processor make of requests."""

    def __init__(self, model: CausalModel, processor: Processor):
        self.model = model
        self.processor = processor
        self._plans: dict[Hashable, GenerationPlan] | None = None

    def fix_model(self) -> None:
        """Keep plans by their options: the settings of the model stay as they are."""
        self._plans = {}

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
        plan = self._plan(options)
        wanted = None if options.get("up_to_context") else options.get("max_new_tokens")
        return Settings(plan, processing, limit, wanted, image_features)

    def _plan(self, options: Mapping[str, Any]) -> GenerationPlan:
        """What the options of an answer mean; that is looked up where many ask with the same."""
        key = None if self._plans is None else _key_of(options)
        plan = None if key is None or self._plans is None else self._plans.get(key)
        if plan is None:
            plan = plan_generation(self.processor, self.model.generation_config, options)
            if key is not None and self._plans is not None:
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                self._plans[key] = plan
        return plan

    def encode(
        self, conversations: Sequence[Messages], settings: Settings, with_pixels: bool = True
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """Model inputs, and a plan whose answer ends where the context does.

        Without pixels they hold what the sizes of the pictures tell: the text, `target_sizes` and
        `slices_per_image`.

        Raises:
            OSError: a file does not exist.
            ValueError: a picture cannot be read, or the prompt is too long.
        """
        processing = dict(settings.processing)
        features = settings.image_features
        shows = any(shows_pictures(messages) for messages in conversations)
        sees = isinstance(self.processor.release, Release)
        if shows and sees and not (with_pixels and features is None):
            processing["return_pixel_values"] = False
        inputs = None
        if len(conversations) == 1 and not (shows and with_pixels and features is None):
            inputs = planned_inputs(self.processor, conversations[0], settings.processing)
        if inputs is None:
            inputs = self._inputs(conversations, processing)
        plan = self._within_limits(inputs["input_ids"].shape[1], settings)
        if features is not None:
            names = ("input_ids", "attention_mask", "mm_token_type_ids")
            inputs = {name: inputs[name] for name in names if name in inputs}
            inputs["image_features"] = features
        return dict(inputs), plan

    def encode_plain(
        self, prompt: str | Sequence[int], settings: Settings
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """As `encode`, for text or token ids that no template is put around.

        In text, the tags of the vocabulary have their meaning.
        """
        ids = self.ids_of(prompt) if isinstance(prompt, str) else list(prompt)
        size = len(self.processor.tokenizer)
        for index, token in enumerate(ids):
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < size:
                raise ArgumentError(
                    f"Token {index} of the prompt is {short(token)}; ids of this vocabulary are "
                    f"whole numbers from 0 to {size - 1}."
                )
        if not ids:
            raise ArgumentError("The prompt is empty. Give some text, or token ids.")
        plan = self._within_limits(len(ids), settings)
        row = torch.tensor([ids])
        return {"input_ids": row, "attention_mask": torch.ones_like(row)}, plan

    def ids_of(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Plain text as tokens, with what begins every text of the vocabulary."""
        tokenizer = self.processor.tokenizer
        begins = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        adds = add_special_tokens and not begins
        return ids_of(tokenizer, text, adds)

    def pixels_of(self, block: dict[str, Any], settings: Settings) -> Pixels:
        """`pixel_values` and `target_sizes` of one picture or video."""
        # The length of a prompt is no matter of its pixels, and frames are chosen.
        names = ("max_inp_length", "num_frames", "fps")
        asked = {name: v for name, v in settings.processing.items() if name not in names}
        inputs = cast(PictureProcessor, self.processor).pixels_of(block, **asked)
        return inputs["pixel_values"], inputs["target_sizes"]

    def _inputs(self, conversations: Sequence[Messages], processing: Mapping[str, Any]) -> Any:
        return self.processor.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs=processing,
        )

    def _within_limits(self, num_prompt_tokens: int, settings: Settings) -> GenerationPlan:
        """Let the answer end where the model's context does; a prompt that fills it, or is longer
        than was asked for, is an error.
        """
        limit = settings.max_inp_length
        if limit is not None and num_prompt_tokens > limit:
            raise PromptTooLongError(
                f"The prompt is too long: it has {num_prompt_tokens} tokens and `max_inp_length` "
                f"is {limit}; cutting it would lose the end of the question. {self._less()} the "
                "text, or raise `max_inp_length`."
            )
        room = context_length(self.model.config) - num_prompt_tokens
        config = copy(settings.plan.config)
        wanted = settings.max_new_tokens
        least = max(config.min_new_tokens or 1, wanted or 1)
        if room < least:
            name = "max_new_tokens" if wanted or least == 1 else "min_new_tokens"
            asked = f"; `{name}` is {least}" if least > 1 else ""
            raise PromptTooLongError(
                f"The prompt is too long: it has {num_prompt_tokens} tokens and the model's "
                f"context {num_prompt_tokens + room}, which leaves {max(room, 0)} for the answer"
                f"{asked}. {self._less()} the text, or lower `{name}`."
            )
        config.max_new_tokens = min(config.max_new_tokens, room)
        return replace(settings.plan, config=config)

    def _less(self) -> str:
        if not isinstance(self.processor.release, Release):
            return "Shorten"
        return "Give fewer pictures or frames (`num_frames`), lower `max_slice_nums`, shorten"


def _key_of(options: Mapping[str, Any]) -> Hashable | None:
    """Equal for equal options, None for those that are not told apart so easily: 1 is not True."""
    key = tuple((name, type(value), value) for name, value in options.items())
    kinds = (str, bool, int, float, NoneType)  # not those derived: they may compare as they like
    return key if all(kind in kinds for _, kind, _ in key) else None


def context_length(config: Any) -> int:
    """Most tokens of a prompt and its answer together."""
    text = getattr(config, "text_config", None) or config.get_text_config()
    rope = text.rope_parameters or {}
    stretches = rope.get("rope_type") == "dynamic"
    return int(text.max_position_embeddings * (rope["factor"] if stretches else 1))
