"""Prompt cache of a conversation: a turn computes only what is new.

Keys and values are reused for the longest prefix that the next prompt shares with the last one, and
the features of pictures by a hash of their content. The tokens are those of a full pass: where
that is not certain (a sliding window that has moved on, positions that stretch with the prompt)
the pass is a full one.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from .protocols import CausalModel

Key = tuple[Any, ...]


@dataclass
class Medium:
    """A picture or a video of a prompt.

    Fields:
        key: equal for equal pixels that are cut and encoded in the same way.
        num_tokens: how many placeholders it has.
    """

    key: Key
    num_tokens: int


@dataclass
class PromptCache:
    """Keys, values and features of one conversation; one turn at a time may use it."""

    _past: Any = None
    _tokens: list[Any] = field(default_factory=list)
    _features: dict[Key, torch.Tensor] = field(default_factory=dict)
    _state: tuple[Any, ...] = ()

    def clear(self) -> None:
        """Forget everything, and free its memory."""
        self._past, self._tokens, self._features = None, [], {}

    def prefill(
        self,
        model: CausalModel,
        inputs: dict[str, Any],
        media: Sequence[Medium],
        encode: Callable[[Sequence[int]], Sequence[torch.Tensor]],
        num_beams: int = 1,
    ) -> dict[str, Any]:
        """Inputs of `generate` whose cache holds all of the prompt but its last token.

        Args:
            inputs: `input_ids` (1, seq), and `mm_token_type_ids` where there are pictures.
            media: what is shown, in prompt order.
            encode: features (num_tokens, hidden) of the media with these numbers.
        """
        state = _state_of(model)
        if state != self._state:
            self.clear()
            self._state = state
        ids, mask = inputs["input_ids"], inputs.get("mm_token_type_ids")
        tokens, starts = _labelled(ids, mask, media)
        held = 0 if self._past is None else self._past.get_seq_length()
        num_known = min(common_length(tokens, self._tokens), len(tokens) - 1, held)
        past = self._cropped(num_known)
        if past is None:
            past, num_known = DynamicCache(config=model.config.get_text_config()), 0
        self._past, self._tokens = None, []  # until this pass has ended well

        new = slice(num_known, len(tokens) - 1)
        arguments: dict[str, Any] = {"input_ids": ids[:, new]}
        shown = [index for index, start in enumerate(starts) if start >= num_known]
        features = self._features_of(media, shown, encode)
        if features and mask is not None:
            arguments["mm_token_type_ids"] = mask[:, new]
            arguments["image_features"] = torch.cat(features).unflatten(
                0, (-1, model.config.query_num)
            )
        if new.start < new.stop:
            with torch.inference_mode():
                model(**arguments, past_key_values=past, use_cache=True, logits_to_keep=1)
        self._past, self._tokens = past, tokens[:-1]
        if num_beams > 1:
            past = deepcopy(past)  # beams would leave theirs in it
            past.batch_repeat_interleave(num_beams)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "past_key_values": past,
        }

    def extend(self, prompt_ids: torch.Tensor, new_ids: Sequence[int]) -> None:
        """Note the generated tokens, whose keys and values are in the cache too."""
        self._tokens += [int(prompt_ids[0, -1]), *new_ids]

    def _features_of(
        self,
        media: Sequence[Medium],
        shown: Sequence[int],
        encode: Callable[[Sequence[int]], Sequence[torch.Tensor]],
    ) -> list[torch.Tensor]:
        missing = [index for index in shown if media[index].key not in self._features]
        if missing:
            encoded = zip(missing, encode(missing), strict=True)
            self._features |= {media[index].key: features for index, features in encoded}
        keys = {medium.key for medium in media}
        self._features = {key: value for key, value in self._features.items() if key in keys}
        return [self._features[media[index].key] for index in shown]

    def _cropped(self, length: int) -> Any:
        """The cache with so many tokens; None when it cannot be had."""
        past, self._past = self._past, None
        if past is None or length == 0:
            return None
        held = past.get_seq_length()
        windows = [getattr(layer, "sliding_window", None) for layer in past.layers]
        if any(window and held >= window for window in windows):
            return None
        if length < held:
            past.crop(length - held)
        return past


def can_be_reused(config: Any, num_tokens: int) -> bool:
    """Whether keys are the same in prompts of any length up to `num_tokens`.

    Positions that stretch do so once the prompt is longer than the model was trained for.
    """
    rope = config.get_text_config().rope_parameters or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return True
    trained = rope.get("original_max_position_embeddings")
    return num_tokens < (trained or config.get_text_config().max_position_embeddings)


def _labelled(
    ids: torch.Tensor, mask: torch.Tensor | None, media: Sequence[Medium]
) -> tuple[list[Any], list[int]]:
    """Tokens with the key of the medium in place of a placeholder, and where each medium begins."""
    tokens: list[Any] = ids[0].tolist()
    if not media or mask is None:
        return tokens, []
    places = iter(mask[0].nonzero().flatten().tolist())
    starts = []
    for medium in media:
        own = [next(places) for _ in range(medium.num_tokens)]
        starts.append(own[0])
        for place in own:
            tokens[place] = medium.key
    return tokens, starts


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many entries two sequences begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    differing = (index for index, (one, other) in pairs if one != other)
    return next(differing, min(len(first), len(second)))


def _state_of(model: CausalModel) -> tuple[Any, ...]:
    """A key that changes with the weights: after a training step, cached values are invalid."""
    versions = [p._version for p in model.parameters() if not p.is_inference()]
    return id(model), model.dtype, model.device, len(versions), sum(versions)
