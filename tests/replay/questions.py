"""Every recorded answer as a question to `Chat`: its messages and options, and the recorded ids."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from minicpmv import Answer, Chat
from minicpmv.engine.supported import max_tokens
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text import TextProcessor
from minicpmv.releases import text_release_of

from .conversation import Conversation
from .recording import Case, Released, released
from .text_answers import Chat as TextChat
from .text_answers import Generate
from .text_models import tokenizer_of

Messages = list[dict[str, Any]]


@dataclass
class Question:
    """One answer that was recorded.

    Fields:
        wanted: its ids up to what ended it, or its text where only that was recorded.
        ends: ids that end an answer.
        is_tie: the recording calls it a near tie: rounding decides.
    """

    name: str
    chat: Chat
    messages: Messages
    options: dict[str, Any]
    wanted: list[int] | str
    ends: set[int] = field(default_factory=set)
    is_tie: bool = False

    @property
    def is_computed(self) -> bool:
        """Whether the scheduler computes it, and not transformers' `generate`."""
        if self.options.get("num_beams", 1) > 1:
            return False
        inputs, plan = self.chat.prepare([self.messages], **self.options)
        most = max_tokens(self.chat.model.config.get_text_config())
        num_tokens = inputs["input_ids"].shape[1] + plan.config.max_new_tokens
        return bool(inputs["attention_mask"].all()) and (most is None or num_tokens <= most)

    def check(self, answer: Answer) -> None:
        """Raises AssertionError: the answer is not the one that was recorded."""
        found: Any = content(answer.token_ids, self.ends)
        if isinstance(self.wanted, str):
            found = str(answer)
        assert found == self.wanted or self.is_tie, f"{self.name}: {found} is not {self.wanted}"


def content(ids: Sequence[int], ends: set[int]) -> list[int]:
    """The ids before the first one that ends an answer."""
    return list(ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))])


def questions_of(case: Case) -> Iterator[Question]:
    """What a case asks under `compat="released"`, and by default where the inputs are the same."""
    yield from ASKED[case.kind](case)


@cache
def _chat(checkpoint: Path, compat: Any, slice_mode: bool | None) -> Chat:
    processor = MiniCPMVProcessor.from_pretrained(checkpoint, compat=compat)
    model = released(checkpoint).model
    if slice_mode is not None:
        model = Released(checkpoint).model
        model.config.slice_mode = processor.image_processor.slice_mode = slice_mode
    return Chat(model, processor)


def _of_conversation(case: Case) -> Iterator[Question]:
    replay = Conversation(case)
    options = dict(replay.options)
    slice_mode = options.pop("slice_mode", None)
    system = options.pop("system_prompt", None)
    rows = [row[1:] if system else row for row in replay.conversations]
    chats = [_chat(case.checkpoint, compat, slice_mode) for compat in ("released", None)]
    ends = set(chats[0].processor.terminator_ids)
    for chat in chats:
        for number, row in enumerate(rows):
            own = options | ({"system_prompt": system} if system else {})
            own = {name: value for name, value in own.items() if _applies(name, row)}
            if chat is chats[1] and not _is_as_released(chats, row, own):
                continue
            for name, ids in case.expected.items():
                search, _, what = name.partition("/")
                if what != "ids" or (search.startswith("sampled") and len(rows) > 1):
                    continue  # recorded with one generator for all rows
                asked = own | replay._options(search)
                if search.startswith("sampled"):
                    asked["seed"] = int(search.removeprefix("sampled_seed"))
                recorded = ids if isinstance(ids[0], list) else [ids]
                yield Question(
                    f"{case.id}/{search}/{number} compat={chat.processor.compat}",
                    chat,
                    row,
                    asked,
                    content(recorded[number], ends),
                    ends,
                    replay._is_unstable(search),
                )


def _applies(option: str, messages: Messages) -> bool:
    shows = any(not isinstance(message["content"], str) for message in messages)
    return shows or option not in ("max_slice_nums", "use_image_id")


def _is_as_released(chats: Sequence[Chat], messages: Messages, options: dict[str, Any]) -> bool:
    """Whether what `compat` is there for makes no difference."""
    try:
        these, others = (chat.prepare([messages], **options)[0] for chat in chats)
    except ValueError:  # the released prompt is cut
        return False
    return all(
        these[name].shape == others[name].shape and torch.equal(these[name], others[name])
        for name in these
    )


class _Ids(TextProcessor):
    """Reads ids, written as JSON, instead of text."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        (messages,) = conversation
        ids = torch.tensor([json.loads(messages[-1]["content"])])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@cache
def _text_chat(replay: TextChat | Generate, kind: type[TextProcessor]) -> Chat:
    config = json.loads((replay.case.checkpoint / "config.json").read_text("utf-8"))
    tokenizer = tokenizer_of(replay.case.checkpoint)
    return Chat(replay.model, kind(tokenizer, text_release_of(config), compat="released"))


def _of_ids(case: Case) -> Iterator[Question]:
    """A call of `generate` on ids, one question for each of its samples."""
    replay = Generate(case)
    chat = _text_chat(replay, _Ids)
    settings, ids = case.given["generate"], case.given["input_ids"]
    if settings.get("num_return_sequences", 1) > 1:
        return  # no option of `Chat`
    ends = {*chat.processor.terminator_ids}
    masks = case.given.get("attention_mask", torch.ones_like(ids)).bool()
    for number, (row, mask) in enumerate(zip(ids, masks, strict=True)):
        options = {
            "sampling": False,
            "max_new_tokens": settings["max_new_tokens"],
            "num_beams": settings.get("num_beams", 1),
            "repetition_penalty": settings.get("repetition_penalty", 1.0),
        }
        asked = [{"role": "user", "content": json.dumps(row[mask].tolist())}]
        wanted = content(case.expected["sequences"][number, ids.shape[1] :].tolist(), ends)
        yield Question(f"{case.id}/{number}", chat, asked, options, wanted, ends)


def _of_text_chat(case: Case) -> Iterator[Question]:
    replay = TextChat(case)
    chat = _text_chat(replay, TextProcessor)
    settings = case.given["kwargs"]
    messages = [
        *(case.given.get("history") or ()),
        {"role": "user", "content": case.given["query"]},
    ]
    inputs, _ = chat.prepare([messages])
    options = {
        "sampling": False,
        "max_new_tokens": settings["max_length"] - inputs["input_ids"].shape[1],
        "num_beams": settings.get("num_beams", 1),
        "repetition_penalty": 1.0,
    }
    yield Question(case.id, chat, messages, options, case.expected["response"])


ASKED: dict[str, Callable[[Case], Iterator[Question]]] = {
    "conversation": _of_conversation,
    "generate": _of_ids,
    "chat": _of_text_chat,
}
