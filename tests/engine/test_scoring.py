"""Log-probabilities of given continuations are those of teacher forcing."""

import threading
from typing import Any

import pytest
import torch

from minicpmv import Chat, load
from minicpmv.engine.engine import Engine
from minicpmv.engine.limits import EngineLimits, QueueFullError

from ..helpers.chats import FOLDERS, loaded
from ..helpers.pictures import picture

# One, several, one that another begins with, one that leaves it later, one that is there twice.
CONTINUATIONS = [[7], [7, 9], [7, 9, 11, 40], [7, 9, 12], [21, 33, 7], [7, 9]]
LONG = [list(range(5, 75)), [*range(5, 40), 90, 91]]


def conversation(chat: Chat, text: str = "What is this?", seed: int = 1) -> Any:
    content: Any = text
    if chat.supports_images:
        content = [picture(64, 90, seed), text]
    return chat.processor.question([{"role": "user", "content": content}])


def score(chat: Chat, messages: Any, continuations: Any, **options: Any) -> list[list[float]]:
    return chat.engine.score(messages, chat.engine.settings([messages], options), continuations)


def taught(chat: Chat, messages: Any, continuation: list[int]) -> list[float]:
    """By one pass of the model over everything."""
    settings = chat.engine.settings([messages], {})
    inputs, _ = chat.engine.prepare([messages], settings)
    new = torch.tensor([continuation])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(new)], dim=1)
    with torch.inference_mode():
        logits = chat.model(**inputs).logits[0, -len(continuation) - 1 : -1].double()
    return logits.log_softmax(-1)[range(len(continuation)), continuation].tolist()


def check(chat: Chat, messages: Any, continuations: Any, found: Any, tolerance: float) -> None:
    assert [len(each) for each in found] == [len(each) for each in continuations]
    for each, continuation in zip(found, continuations, strict=True):
        wanted = taught(chat, messages, continuation)
        assert each == pytest.approx(wanted, abs=tolerance), continuation


def test_scores_are_those_of_teacher_forcing(chat: Chat) -> None:
    messages = conversation(chat)
    for _ in range(2):  # the second time with what is remembered
        found = score(chat, messages, CONTINUATIONS)
        check(chat, messages, CONTINUATIONS, found, 2e-4)


def test_continuations_longer_than_blocks(seeing: Chat) -> None:
    messages = conversation(seeing)
    check(seeing, messages, LONG, score(seeing, messages, LONG), 2e-4)


def test_scores_by_the_forward_of_a_model_that_the_engine_does_not_know(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = conversation(chat)
    engine = Engine(chat.model, chat.processor)
    monkeypatch.setattr(engine, "_current", lambda *_: None)
    settings = engine.settings([messages], {})
    found = engine.score(messages, settings, CONTINUATIONS)
    check(chat, messages, CONTINUATIONS, found, 2e-4)


def test_scores_of_nano() -> None:
    chat = load("nano", device="cpu", dtype="float32")
    messages = conversation(chat)
    check(chat, messages, CONTINUATIONS, score(chat, messages, CONTINUATIONS), 2e-4)


def test_the_prompt_and_its_picture_are_computed_once(seeing: Chat) -> None:
    chat = Chat(seeing.model, seeing.processor)
    messages = conversation(chat)
    before = chat.engine.stats()
    many = [[first, second, 5] for first in range(5, 15) for second in (3, 4)]
    score(chat, messages, many)
    after = chat.engine.stats()
    assert after["steps"]["vision"] - before["steps"]["vision"] == 1
    tokens = chat.engine.measure(messages, chat.engine.settings([messages], {}))[0]
    assert after["tokens"]["prompt"] == tokens
    assert after["requests"]["finished"] == after["requests"]["submitted"] == 1
    # Pieces of the prompt, and then all paths together.
    assert after["steps"]["decoder"] <= -(-tokens // 256) + 2
    known = after["prefixes"]["known_tokens"]
    assert known == len(many) * tokens
    chat.close()


def test_scores_beside_answers(seeing: Chat) -> None:
    """All at once, neither changes the other."""
    messages = [conversation(seeing, f"Question {number}?", number % 3) for number in range(6)]
    wanted = [score(seeing, each, CONTINUATIONS) for each in messages]
    greedy: Any = {"sampling": False, "num_beams": 1, "max_new_tokens": 12}
    alone = seeing.answer_all(messages, **greedy)
    seeing.engine.forget()
    settings = seeing.engine.settings(messages, {})
    begun = [seeing.engine.begin_score(each, settings, CONTINUATIONS) for each in messages]
    answers = seeing.answer_all(messages, **greedy)
    for scores, each in zip(begun, wanted, strict=True):
        for found, right in zip(scores.read(), each, strict=True):
            assert found == pytest.approx(right, abs=2e-4)
    assert answers == alone


def test_given_features_and_released_quirks(seeing: Chat) -> None:
    messages = conversation(seeing)
    settings = seeing.engine.settings([messages], {})
    inputs, _ = seeing.engine.prepare([messages], settings)
    with torch.inference_mode():
        output = seeing.model.get_image_features(
            inputs["pixel_values"], inputs["target_sizes"], return_dict=True
        )
    found = score(seeing, messages, CONTINUATIONS, image_features=output.pooler_output)
    check(seeing, messages, CONTINUATIONS, found, 2e-4)
    released = load(FOLDERS["2.6"], device="cpu", dtype="float32", compat="released")
    found = score(released, conversation(released), CONTINUATIONS)
    check(released, conversation(released), CONTINUATIONS, found, 2e-4)


def test_little_memory(seeing: Chat) -> None:
    """Paths wait for each other, and may have to compute the prompt again."""
    messages = conversation(seeing)
    settings = seeing.engine.settings([messages], {})
    tokens = seeing.engine.measure(messages, settings)[0]
    first = Chat(seeing.model, seeing.processor)
    score(first, messages, [[5]])
    held = first.engine.stats()["prefixes"]["store_bytes"]
    first.close()
    assert tokens > 32
    limits = EngineLimits(cache_bytes=held + held // 2, idle_bytes=0)
    chat = Chat(seeing.model, seeing.processor, limits=limits)
    check(chat, messages, CONTINUATIONS, score(chat, messages, CONTINUATIONS), 2e-4)
    chat.close()


def test_wrong_continuations(seeing: Chat) -> None:
    messages = conversation(seeing)
    for wrong, message in (
        ([], "continuations is empty"),
        ([[5], []], "Continuation 1 has no tokens"),
        ([[5, 10**9]], "Continuation 0 has token 1000000000; the vocabulary has"),
        ([[-1]], "has token -1"),
        (
            [[5] * 100_000],
            "prompt is too long: .* longest continuation 100000; the model's context is",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            score(seeing, messages, wrong)


def test_a_cancelled_score_and_a_full_queue(seeing: Chat) -> None:
    limits = EngineLimits(max_running=1, max_waiting=0)
    chat = Chat(seeing.model, seeing.processor, limits=limits)
    messages = conversation(chat)
    settings = chat.engine.settings([messages], {})
    endless: Any = {"sampling": False, "num_beams": 1, "max_new_tokens": 3000}
    with chat.stream("Hello", min_new_tokens=3000, **endless) as stream:
        next(stream)
        with pytest.raises(QueueFullError):
            chat.engine.score(messages, settings, CONTINUATIONS)
    found = []
    while not found:  # until the stream has left
        try:
            found = chat.engine.score(messages, settings, CONTINUATIONS)
        except QueueFullError:
            continue
    assert len(found) == len(CONTINUATIONS)
    chat.close()


def test_a_reader_is_told_of_the_end() -> None:
    chat = Chat(loaded("2.6").model, loaded("2.6").processor)
    messages = conversation(chat)
    settings = chat.engine.settings([messages], {})
    chat.engine.score(messages, settings, LONG)
    runtime = chat.engine._current()
    assert runtime is not None
    with runtime.scheduler._step_lock:  # nothing is computed meanwhile
        scores = chat.engine.begin_score(messages, settings, CONTINUATIONS)
        scores.cancel()
    with pytest.raises(ValueError, match="were cancelled"):
        scores.read()
    with runtime.scheduler._step_lock:
        scores = chat.engine.begin_score(messages, settings, CONTINUATIONS)
        closing = threading.Thread(target=chat.close)
        closing.start()
    closing.join(60)
    with pytest.raises(ValueError, match="closed before"):
        scores.read()
    with pytest.raises(ValueError, match="closed"):
        chat.engine.score(messages, settings, LONG)


def test_weights_that_are_not_finite_are_told() -> None:
    chat = load(FOLDERS["2.6"], device="cpu", dtype="float32")
    with torch.no_grad():
        chat.model.lm_head.weight[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        score(chat, conversation(chat), CONTINUATIONS)
