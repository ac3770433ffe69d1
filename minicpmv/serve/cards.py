"""What `/v1/models` says of a model of this process."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

from ..chat import Chat
from ..engine.inputs import context_length
from ..engine.options import GENERATION
from ..engine.plan import plan_generation
from ..processing.cost import CutSettings
from .jobs import ModelCard
from .registry import Entry

_SHOWN = (
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "num_beams",
    "no_repeat_ngram_size",
    "min_new_tokens",
)
# Every request asks for one. Weak: what is known of a model does not keep it in memory.
_CARDS: WeakKeyDictionary[Chat, dict[str, ModelCard]] = WeakKeyDictionary()


def card_of(name: str, entry: Entry[Chat], file_bytes: int | None = None) -> ModelCard:
    """The card of a model under one of its names."""
    chat = entry.model
    if chat is None:
        return ModelCard(name, entry.created, None, False, None, {}, file_bytes=file_bytes)
    cards = _CARDS.setdefault(chat, {})
    if name not in cards:
        cards[name] = ModelCard(
            name,
            entry.created,
            context_length(chat.model.config),
            True,
            chat.supports_images,
            defaults_of(chat),
            pictures_of(chat),
            knows_tools(chat.processor),
            file_bytes,
            entry.num_bytes,
            chat.model.device.type == "cuda",
        )
    return cards[name]


def knows_tools(processor: Any) -> bool:
    """Whether the chat template writes `tools`."""
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    texts = template.values() if isinstance(template, Mapping) else [template]
    return any("tools" in str(text) for text in texts)


def pictures_of(chat: Chat) -> Mapping[str, Any] | None:
    """How the model cuts pictures; None where it reads text only."""
    if not chat.supports_images:
        return None
    return asdict(CutSettings.of(chat.processor.image_processor.to_dict()))


def defaults_of(chat: Chat) -> Mapping[str, Any]:
    """Generation options of a request that names none."""
    plan = plan_generation(chat.processor, chat.model.generation_config, {})
    found = {name: getattr(plan.config, name, None) for name in _SHOWN}
    if not found["do_sample"]:  # `generate` has values of these, which mean nothing
        found = {name: found[name] for name in found if GENERATION[name].needs != "sampling"}
    found["repetition_penalty"] = plan.repetition_penalty
    found["max_new_tokens"] = min(plan.config.max_new_tokens, context_length(chat.model.config))
    return {name: value for name, value in found.items() if value is not None}
