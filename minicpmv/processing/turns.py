"""Every answer of a conversation as tokens, with the prompt that it answers.

The prompt of an answer is what inference gives the model at that point: the messages before it and
the generation prompt, through the same template and the same encoding. The answer is what the model
must emit then: the tokens that follow in the rendered conversation, and the token that ends it.

Answers are encoded as the continuation of their prompt. An answer encoded alone would begin with a
space in the tokenizers of SentencePiece, and differ from what stands in the history later on.
"""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from .cutting import Sized, planned
from .encoding import Encoded, GrowingText, encode
from .image_settings import check_effect, check_settings
from .packing import Sliced
from .prompt import PromptTokens, adds_special_tokens, prompt_tokens
from .quoting import QUOTE_START, unquoted
from .text import TextProcessor

Sizes = tuple[tuple[int, int], ...]
Mask = np.ndarray[Any, np.dtype[Any]]

# Stands for an answer to see what the template writes after one; no text holds it.
_ANSWER = "\U000f0002"
# Texts to put in front of an answer that is encoded apart, so that it does not begin a text.
_ANCHORS = ("", "\n", ">", "0")


@dataclass(frozen=True)
class Looked:
    """What a prompt needs to know of a picture.

    Args:
        sizes: (height, width) in pixels, upright, of the image, or of each frame of a video.
        kind: "image" or "video".
        digest: a hash of the pixels.
        max_slice_nums: the most slices of this picture; None: as the call says.
    """

    sizes: Sizes
    kind: Literal["image", "video"] = "image"
    digest: bytes = b""
    max_slice_nums: int | None = None


@dataclass(frozen=True, eq=False)
class TurnIds:
    """One answer.

    Args:
        prompt: ids of the generation prompt.
        answer: ids of the answer as the template writes it, without what ends it.
        terminator: the id that ends it.
        is_written: whether the template writes the terminator after a last answer.
        message: its place among the messages.
        mm_token_type_ids: (len(prompt),) uint8, 1 at visual placeholders.
        picture_spans: (first token, the one after the last) of each picture of the prompt with its
            tags.
        text: the answer as the template writes it.
    """

    prompt: list[int]
    answer: list[int]
    terminator: int
    is_written: bool
    message: int
    mm_token_type_ids: Mask
    picture_spans: tuple[tuple[int, int], ...]
    text: str


@dataclass(frozen=True, eq=False)
class Turns:
    """The answers of one conversation.

    Args:
        turns: one for each, in order.
        target_sizes: for each picture (height, width) in patches of its slices.
    """

    turns: tuple[TurnIds, ...]
    target_sizes: tuple[Sizes, ...]

    @property
    def mm_token_type_ids(self) -> Mask:
        """Of the longest prompt, (num_tokens,) uint8."""
        return self.turns[-1].mm_token_type_ids if self.turns else np.zeros(0, np.uint8)


class TemplateError(ValueError):
    """The chat template does not write conversations so that answers can be told from prompts."""


def turn_ids(
    processor: Any,
    messages: Sequence[Mapping[str, Any]],
    looked: Sequence[Looked] = (),
    *,
    max_slice_nums: int | None = None,
    use_image_id: bool | None = None,
    only: Collection[int] | None = None,
) -> Turns:
    """The tokens of every assistant message. No pixels are made and no picture is opened.

    Args:
        processor: `MiniCPMVProcessor` or `TextProcessor`.
        messages: with `role` and `content`, which is text or blocks; see `apply_chat_template`.
        looked: the sizes of the pictures, in the order of the prompt.
        max_slice_nums, use_image_id: as in the processor's call.
        only: places of the assistant messages that are wanted; None: all.

    Raises:
        ValueError: a message has another form, or a setting has no effect.
        TemplateError: an answer cannot be told from its prompt.
    """
    given = {"max_slice_nums": max_slice_nums, "use_image_id": use_image_id}
    prompts = Prompts(processor, [with_bare_pictures(message) for message in messages])
    prompts.show(looked, {name: value for name, value in given.items() if value is not None})
    suffix = _suffix(processor)
    wanted = [
        index
        for index, message in enumerate(messages)
        if message["role"] == "assistant" and (only is None or index in only)
    ]
    if 0 in wanted:
        raise ValueError("The conversation begins with an answer; a user's message comes first.")
    parts = [part for index in wanted for part in ((index, True), (index + 1, False))]
    texts = iter(processor.prompts_of(prompts.messages, parts))
    turns = tuple(
        _turn(prompts, index, before, whole, suffix)
        for index, before, whole in zip(wanted, texts, texts, strict=True)
    )
    sizes = tuple(
        tuple((int(height), int(width)) for image in images for height, width in image.target_sizes)
        for images in prompts.sliced
    )
    return Turns(turns, sizes)


class Prompts:
    """The beginnings of one conversation as tokens."""

    def __init__(self, processor: Any, messages: list[dict[str, Any]]) -> None:
        self.processor = processor
        self.messages = messages
        self.sliced: list[list[Sliced]] = []
        self._encoder = GrowingText(processor.tokenizer)
        self._texts: list[str] = []  # of each picture
        self._kinds: list[str] = []

    def show(self, looked: Sequence[Looked], settings: dict[str, Any]) -> None:
        """Plan the slices of the pictures and the text around them."""
        processor = self.processor
        if isinstance(processor, TextProcessor):
            if settings:
                raise ValueError(
                    f"{', '.join(settings)} has no effect: {processor.release.name} reads text "
                    "only."
                )
            return
        check_settings(settings)
        check_effect(processor.release, settings)
        if not looked:
            return
        processor._check_tags(settings)
        for picture in looked:
            sizes = [Sized(height, width) for height, width in picture.sizes]
            limit = picture.max_slice_nums or settings.get("max_slice_nums")
            is_video = picture.kind == "video"
            images = planned(processor.image_processor, sizes, limit, is_video=is_video)
            self.sliced.append(images)
            self._kinds.append(picture.kind)
        pairs = list(zip(self._kinds, self.sliced, strict=True))
        stills = [images[0] for kind, images in pairs if kind == "image"]
        numbered = iter(processor._image_texts([len(stills)], stills, settings))
        self._texts = [
            next(numbered)
            if kind == "image"
            else "\n".join(processor._placeholder(frame) for frame in images)
            for kind, images in pairs
        ]

    def tokens(self, text: str, end: int) -> PromptTokens:
        """The tokens of a rendered beginning of `end` messages."""
        processor = self.processor
        if isinstance(processor, TextProcessor):
            special = adds_special_tokens(processor.tokenizer, text)
            encoded = self._encoder(text, special)
            return PromptTokens(encoded, np.zeros(len(encoded.ids), np.int64), [])
        count = sum(_num_pictures(message) for message in self.messages[:end])
        shown = list(zip(self._kinds[:count], self._texts[:count], strict=True))
        (tokens,) = prompt_tokens(
            processor,
            [text],
            [picture for kind, picture in shown if kind == "image"],
            [picture for kind, picture in shown if kind == "video"],
            compat=processor.compat,
            encoder=self._encoder,
        )
        if len(tokens.replacements) != count:
            raise ValueError(
                f"The template writes {len(tokens.replacements)} of the {count} pictures of the "
                "messages; it must write each one."
            )
        return tokens


def _turn(prompts: Prompts, index: int, before: str, whole: str, suffix: str) -> TurnIds:
    """The answer at `index` of the messages.

    Args:
        before: the rendered messages before it, with the generation prompt.
        whole: with the answer.
        suffix: what the template writes after a last answer.
    """
    processor, tokenizer = prompts.processor, prompts.processor.tokenizer
    if not whole.startswith(before) or not whole.endswith(suffix):
        raise TemplateError(
            "The chat template does not write an answer behind its generation prompt, so it cannot "
            "be told what the model must say. Take the template of the release."
        )
    end = len(whole) - len(suffix)  # the first character that the template wrote
    prompt = prompts.tokens(before, index)
    full = prompts.tokens(whole, index + 1)
    shift = 0
    if full.replacements:  # the text of pictures is longer than their markers
        shift = sum(len(item["replacement"]) - len(item["text"]) for item in full.replacements)
    start, end = len(prompt.encoded.ids), end + shift
    terminators = set(processor.terminator_ids)
    ids, offsets = full.encoded
    stop = next((i for i in range(start, len(ids)) if offsets[i][0] >= end), len(ids))
    written = next((i for i in range(stop, len(ids)) if ids[i] in terminators), None)
    is_apart = ids[:start] != prompt.encoded.ids
    if written is not None:
        terminator, answer_end = ids[written], offsets[written][0] - shift
        answer = ids[start:written]
    else:
        terminator, answer_end = tokenizer.eos_token_id, end - shift
        answer = ids[start:stop]
        is_apart = is_apart or (stop > start and offsets[stop - 1][1] > end)
    text = whole[len(before) : answer_end]
    if is_apart:
        answer = _continuation(processor, prompt.encoded, text)
    return TurnIds(
        prompt=prompt.encoded.ids,
        answer=answer,
        terminator=int(terminator),
        is_written=written is not None,
        message=index,
        mm_token_type_ids=prompt.mask.astype(np.uint8),
        picture_spans=_token_spans(prompt),
        text=_bare(text),
    )


def _continuation(processor: Any, prompt: Encoded, text: str) -> list[int]:
    """The tokens of an answer whose first character would make one token with the end of the
    prompt, or whose last one with what the template writes behind it.
    """
    tokenizer = processor.tokenizer
    tail = prompt.ids[-8:]
    expected = _compared(processor.text_of(tail) + _bare(text))
    for anchor in _ANCHORS:
        first = encode(tokenizer, anchor, False).ids
        ids = encode(tokenizer, anchor + text, False).ids
        is_begun = ids[: len(first)] == first
        if is_begun and _compared(processor.text_of([*tail, *ids[len(first) :]])) == expected:
            return ids[len(first) :]
    raise TemplateError(
        f"The answer {_bare(text)[:40]!r} cannot be written in tokens that follow its prompt."
    )


def _compared(text: str) -> str:
    """The text without what tokenizers change: SentencePiece's sign for a space, and other ways to
    write a character."""
    return unicodedata.normalize("NFKC", text.replace("\u2581", " "))


_SUFFIXES: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()  # of templates


def _suffix(processor: Any) -> str:
    """What the template writes after a last answer."""
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    known = _SUFFIXES.get(processor)
    if known is not None and known[0] == template:
        return known[1]
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    (text,) = processor.prompts_of(messages, [(2, False)])
    _, found, suffix = text.partition(_ANSWER)
    if not found:
        raise TemplateError("The chat template does not write the answers of a conversation.")
    _SUFFIXES[processor] = template, suffix
    return str(suffix)


def _token_spans(prompt: PromptTokens) -> tuple[tuple[int, int], ...]:
    """The tokens of each picture's text."""
    if not prompt.replacements:
        return ()
    starts = np.array([start for start, _ in prompt.encoded.offsets])
    edges = np.searchsorted(starts, np.array(prompt.spans))
    return tuple((int(first), int(end)) for first, end in edges)


def with_bare_pictures(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with nothing of its pictures but what templates read: their kind, and whether
    they stand within a line."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    blocks = [
        {key: block[key] for key in ("type", "inline") if key in block}
        if isinstance(block, Mapping) and block.get("type") in ("image", "video")
        else block
        for block in content
    ]
    return {**message, "content": blocks}


def _num_pictures(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return sum(isinstance(b, Mapping) and b.get("type") in ("image", "video") for b in blocks)


def _bare(text: str) -> str:
    return unquoted(text)[0] if QUOTE_START in text else text
