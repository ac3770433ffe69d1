"""A later turn pays for what is new, and says what a turn without caches would say."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from minicpmv import Chat, Conversation, load
from minicpmv.engine.decoder import Decoder

from ..helpers.chats import FOLDERS
from ..helpers.pictures import picture

GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 8}
SAMPLED = {"sampling": True, "seed": 4, "temperature": 1.5, "max_new_tokens": 8}
BEAMS = {"sampling": False, "num_beams": 3, "max_new_tokens": 6}


@pytest.fixture
def read(chat: Chat) -> Iterator[list[int]]:
    """Grows by the number of tokens of every forward pass."""
    seen: list[int] = []
    hook = chat.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0].numel())
    )
    yield seen
    hook.remove()


@pytest.fixture
def encoded(chat: Chat) -> Iterator[list[int]]:
    """Grows by the number of slices of every pass of the vision tower."""
    seen: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
        for module in chat.model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def said(conversation: Conversation, *turn: Any, **options: Any) -> str:
    return "".join(conversation.say(*turn, **options))


def shown(chat: Chat, *pictures: Any) -> list[Any]:
    return list(pictures) if chat.supports_images else []


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, BEAMS], ids=["greedy", "sampled", "beams"])
def test_answers_are_those_without_caches(chat: Chat, options: dict[str, Any]) -> None:
    """With pictures in the first and the third turn, of one and of several slices."""
    conversation = chat.conversation(system="Be brief.")
    turns: list[tuple[str, list[Any]]] = [
        ("What is it?", shown(chat, picture(40, 30))),
        ("And what colour?", []),
        ("Compare the two.", shown(chat, picture(700, 300, 1), picture(20, 90, 2))),
        ("Why?", []),
    ]
    if not chat.supports_images:  # their context is short
        turns, options = turns[:3], options | {"max_new_tokens": 3}
    for prompt, pictures in turns:
        before = list(conversation.history)
        prompt = prompt if chat.supports_images else prompt[:4]
        found = said(conversation, prompt, pictures, **options)
        asked = conversation.history[len(before)]
        whole = chat.ask([*before, asked], system_prompt="Be brief.", **options)
        assert found == whole


def test_a_later_turn_reads_only_what_is_new(chat: Chat, read: list[int]) -> None:
    if Decoder(chat.model).max_tokens() is not None:
        pytest.skip("its positions stretch within two turns: each is read whole, by `generate`")
    conversation = chat.conversation()
    first = conversation.say("What is it?", shown(chat, picture(40, 30)), **GREEDY)
    "".join(first)
    read.clear()
    second = conversation.say("Go on.", **GREEDY)
    "".join(second)
    assert first.answer is not None
    assert second.answer is not None
    new = second.answer.num_input_tokens - first.answer.num_input_tokens
    assert sum(read) <= new + second.answer.num_output_tokens + 4


@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_no_picture_is_encoded_twice(
    chat: Chat, encoded: list[int], options: dict[str, Any]
) -> None:
    if not chat.supports_images:
        return
    conversation = chat.conversation()
    said(conversation, "What is it?", [picture(300, 700)], **options)
    assert encoded
    encoded.clear()
    said(conversation, "And now?", **options)
    assert not encoded
    conversation.history.pop(0)  # another beginning: nothing of the prompt can be used
    conversation.history.pop(0)
    said(conversation, "The first one again?", [picture(300, 700)], **options)
    assert not encoded, "features are kept by content"


def test_a_new_picture_is_encoded_alone(chat: Chat, encoded: list[int]) -> None:
    if not chat.supports_images:
        return
    chat.ask("What is it?", [picture(40, 30)], **GREEDY)
    alone = sum(encoded)
    chat.engine.forget()
    conversation = chat.conversation()
    said(conversation, "What is it?", [picture(300, 700)], **GREEDY)
    first = sum(encoded) - alone
    encoded.clear()
    said(conversation, "And this?", [picture(40, 30)], **GREEDY)
    # Released 2.5 weights see the longest slice beside them: where it is new, all are.
    sees_padding = chat.model.config.vision_config.attend_padding
    assert sum(encoded) == alone + (first if sees_padding else 0)


def test_a_picture_counts_where_it_changes(seeing: Chat) -> None:
    conversation = seeing.conversation()
    said(conversation, "What is it?", [picture(40, 30)], **GREEDY)
    for change in (
        {"max_slice_nums": 1},
        {"system_prompt": "Be brief."},
        {"use_image_id": False},
    ):
        before = list(conversation.history)
        found = said(conversation, "And?", **GREEDY, **change)
        question = {"role": "user", "content": "And?"}
        assert found == seeing.ask([*before, question], **GREEDY, **change)


def test_an_edited_history_is_read_as_it_is(chat: Chat) -> None:
    conversation = chat.conversation()
    said(conversation, "What is it?", shown(chat, picture(40, 30)), **GREEDY)
    said(conversation, "And?", **GREEDY)
    conversation.history[1] = {"role": "assistant", "content": "A house."}
    before = list(conversation.history)
    found = said(conversation, "Why?", **GREEDY)
    assert found == chat.ask([*before, {"role": "user", "content": "Why?"}], **GREEDY)


def test_a_turn_that_was_stopped_leaves_no_trace(chat: Chat) -> None:
    conversation = chat.conversation()
    said(conversation, "What is it?", shown(chat, picture(40, 30)), **GREEDY)
    before = list(conversation.history)
    stream = conversation.say("Count.", sampling=True, seed=1, temperature=3.0, max_new_tokens=30)
    next(stream, None)
    stream.close()
    assert conversation.history == before or stream.answer is not None
    conversation.history[:] = before
    found = said(conversation, "Why?", **GREEDY)
    assert found == chat.ask([*before, {"role": "user", "content": "Why?"}], **GREEDY)


def test_a_failed_turn_leaves_no_trace(seeing: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = seeing.conversation()
    said(conversation, "What is it?", [picture(40, 30)], **GREEDY)
    before = list(conversation.history)
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            said(conversation, "Count.", **GREEDY)
    assert conversation.history == before
    found = said(conversation, "Why?", **GREEDY)
    assert found == seeing.ask([*before, {"role": "user", "content": "Why?"}], **GREEDY)


def test_weights_that_change_are_seen(seeing: Chat) -> None:
    conversation = seeing.conversation()
    said(conversation, "What is it?", [picture(40, 30)], **GREEDY)
    weight = seeing.model.get_input_embeddings().weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(-1)
        before = list(conversation.history)
        found = said(conversation, "And?", **GREEDY)
        assert found == seeing.ask([*before, {"role": "user", "content": "And?"}], **GREEDY)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_another_question_about_the_same_picture_starts_where_the_first_ended(
    chat: Chat, read: list[int], encoded: list[int]
) -> None:
    """Without a conversation: the prompts begin alike."""
    pictures = shown(chat, picture(300, 700))
    first = chat.ask("What is it?", pictures, **GREEDY)
    encoded.clear()
    read.clear()
    again = chat.ask("What is it?", pictures, **GREEDY)
    assert again == first
    assert sum(read) == again.num_output_tokens  # the prompt's last token, and the new ones
    if chat.supports_images:
        chat.ask("How many are there?", pictures, **GREEDY)
        assert not encoded


def test_clearing_the_chat_forgets_its_pictures(chat: Chat, encoded: list[int]) -> None:
    if not chat.supports_images:
        return
    for _ in range(2):
        said(chat.conversation(), "What is it?", [picture(40, 30)], **GREEDY)
        assert encoded
        encoded.clear()
        chat.clear()
    assert chat.engine.stats()["prefixes"]["idle_bytes"] == 0


def test_closing_ends_answers_and_frees_the_memory() -> None:
    chat = load(FOLDERS["2.6"], device="cpu", dtype="float32")
    assert chat.engine.stats()["requests"]["running"] == 0
    stream = chat.stream("Tell me.", **GREEDY | {"min_new_tokens": 500, "max_new_tokens": 500})
    next(stream)
    assert chat.engine.stats()["requests"]["running"] == 1
    with chat:
        pass
    with pytest.raises(ValueError, match="closed"):
        list(stream)
    with pytest.raises(ValueError, match="closed"):
        chat.ask("Hello")
    reference = weakref.ref(chat.model)
    del chat, stream
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("is_closed", [True, False])
def test_what_nobody_needs_is_freed_at_once(is_closed: bool) -> None:
    """Nothing of it is in a cycle, which would hold the model until garbage is collected."""
    chat = load(FOLDERS["2.6"], device="cpu", dtype="float32")
    chat.engine.fix_model()
    chat.ask("Hello", **GREEDY)
    stream = chat.stream("Tell me.", **GREEDY)
    next(stream)
    reference = weakref.ref(chat.model)
    gc.collect()
    gc.disable()
    try:
        if is_closed:
            chat.close()
        else:
            stream.read()
            chat.engine._runtime.scheduler.close()  # else its thread may hold it for a moment
        del chat, stream
        assert reference() is None
    finally:
        gc.enable()
