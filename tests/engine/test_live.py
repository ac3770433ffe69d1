"""The same answer whole, streamed, from an event loop, several at a time and beside others."""

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv import Answer, Chat, load
from minicpmv.engine.limits import EngineLimits, QueueFullError
from minicpmv.engine.live import LiveAnswer, LivePiece

from ..helpers.chats import FOLDERS
from ..helpers.mixes import check_idle
from ..helpers.pictures import picture

GREEDY: dict[str, Any] = {"sampling": False, "num_beams": 1, "max_new_tokens": 12}
DRAWN: dict[str, Any] = {"sampling": True, "temperature": 3.0, "max_new_tokens": 12}
LONG: dict[str, Any] = GREEDY | {"max_new_tokens": 3000, "min_new_tokens": 3000}
BEAMS: dict[str, Any] = {"sampling": False, "num_beams": 3, "max_new_tokens": 6}


def messages(text: str = "What is it?", *pictures: Image.Image) -> list[dict[str, Any]]:
    shown = [{"type": "image", "image": image} for image in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


async def begun(chat: Chat, prompt: Any, **options: Any) -> LiveAnswer:
    """As a server begins it: in another thread."""
    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(chat.live, prompt, loop, **options)


async def pieces_of(chat: Chat, prompt: Any, **options: Any) -> list[LivePiece]:
    return [piece async for piece in await begun(chat, prompt, **options)]


def read(chat: Chat, prompt: Any, **options: Any) -> list[Answer]:
    """The answers of one request, each checked against its pieces."""
    pieces = asyncio.run(pieces_of(chat, prompt, **options))
    answers: dict[int, Answer] = {}
    for piece in pieces:
        assert piece.index not in answers, "nothing comes after the last piece"
        if piece.answer is not None:
            answers[piece.index] = piece.answer
    for index, answer in answers.items():
        own = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in own) == answer
        tokens = tuple(token for piece in own for token in piece.tokens)
        assert tokens == (answer.text_logprobs or ())
    return [answers[index] for index in sorted(answers)]


def facts(answer: Answer) -> tuple[Any, ...]:
    return (
        str(answer),
        answer.token_ids,
        answer.finish_reason,
        answer.num_input_tokens,
        answer.num_output_tokens,
    )


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        DRAWN | {"seed": 5},
        GREEDY | {"logprobs": 3},
        DRAWN | {"seed": 7, "stop": ["a", "e"], "max_new_tokens": 60, "logprobs": 0},
        BEAMS,
    ],
    ids=["greedy", "drawn", "logprobs", "stop", "beams"],
)
def test_the_answer_is_that_of_ask(chat: Chat, options: dict[str, Any]) -> None:
    shown = [picture(60, 40)] if chat.supports_images else []
    asked = chat.ask(messages("What?", *shown), **options)
    streamed = chat.stream(messages("What?", *shown), **options)
    assert "".join(streamed) == asked
    (live,) = read(chat, messages("What?", *shown), **options)
    assert facts(live) == facts(asked) == facts(streamed.answer or Answer(""))
    assert live.queue_seconds <= live.prompt_seconds
    if options.get("logprobs") is not None:
        assert live.logprobs is not None
        assert asked.logprobs is not None
        assert [t.token_id for t in live.logprobs] == [t.token_id for t in asked.logprobs]


def test_several_answers_compute_their_prompt_once(seeing: Chat) -> None:
    question = messages("Tell me all about it, please: what, and where?", picture(90, 60))
    options = DRAWN | {"seed": 3, "num_beams": 1}
    alone = [seeing.ask(question, **options | {"seed": 3 + i}) for i in range(4)]
    assert len({str(answer) for answer in alone}) > 1
    seeing.engine.forget()
    before = seeing.engine.stats()
    answers = read(seeing, question, num_answers=4, **options)
    after = seeing.engine.stats()
    assert list(map(facts, answers)) == list(map(facts, alone))
    assert after["steps"]["slices"] - before["steps"]["slices"] == 1
    num_tokens = answers[0].num_input_tokens
    assert [answer.num_cached_tokens for answer in answers] == [0, *[num_tokens - 1] * 3]
    check_idle(seeing)


def test_several_answers_share_features_that_were_given(seeing: Chat) -> None:
    config = seeing.model.config
    width = config.get_text_config().hidden_size
    features = torch.full((1, config.query_num, width), 0.5)
    options = GREEDY | {"image_features": features}
    alone = seeing.ask(messages("What?", picture(30, 40)), **options)
    answers = read(seeing, messages("What?", picture(30, 40)), num_answers=3, **options)
    assert list(map(facts, answers)) == [facts(alone)] * 3
    assert answers[2].num_cached_tokens == alone.num_input_tokens - 1


def test_answers_by_generate_come_one_after_the_other(seeing: Chat) -> None:
    first = seeing.ask(messages(), **BEAMS)
    answers = read(seeing, messages(), num_answers=2, **BEAMS)
    assert list(map(facts, answers)) == [facts(first)] * 2


def test_it_is_the_same_beside_others(seeing: Chat) -> None:
    """Longer and shorter ones, one that is cancelled, one whose picture is refused."""
    mine = messages("And this?", picture(70, 50))
    alone = seeing.ask(mine, **GREEDY)

    async def run() -> Answer | None:
        longer = await begun(seeing, messages("Tell."), **LONG)
        first = await anext(longer)
        assert first.text
        cancelled = await begun(seeing, mine, **LONG)
        shorter = await begun(seeing, messages("One."), **GREEDY | {"max_new_tokens": 1})
        with pytest.raises(OSError, match="not"):
            await begun(seeing, messages("No.", "nowhere.png"), **GREEDY)  # type: ignore[arg-type]
        live = await begun(seeing, mine, num_answers=2, **GREEDY)
        cancelled.cancel()
        assert [piece async for piece in cancelled if piece.answer] == []
        pieces = [piece async for piece in live]
        assert [piece async for piece in shorter][-1].answer is not None
        longer.cancel()
        assert len([piece.answer for piece in pieces if piece.answer]) == 2
        assert facts(live.answers[0] or Answer("")) == facts(live.answers[1] or Answer(""))
        return live.answer

    assert facts(asyncio.run(run()) or Answer("")) == facts(alone)
    check_idle(seeing)


@pytest.mark.parametrize("cancelled", [0, 1])
def test_one_of_several_may_be_cancelled(seeing: Chat, cancelled: int) -> None:
    """The first, whose prompt the second goes on from, too; before anything is computed."""
    alone = seeing.ask(messages(), **GREEDY)

    async def run() -> list[Answer | None]:
        live = await begun(seeing, messages(), num_answers=2, **GREEDY)
        live.cancel(cancelled)
        async for piece in live:
            assert piece.index != cancelled
        return live.answers

    answers = asyncio.run(run())
    assert answers[cancelled] is None
    assert facts(answers[1 - cancelled] or Answer("")) == facts(alone)
    check_idle(seeing)


@pytest.mark.parametrize("options", [LONG, BEAMS | {"max_new_tokens": 400}], ids=["own", "beams"])
@pytest.mark.parametrize("drops", [True, False])
def test_who_stops_reading_frees_the_place(
    seeing: Chat, options: dict[str, Any], drops: bool
) -> None:
    async def run() -> None:
        live = await begun(seeing, messages(), **options)
        waiting = asyncio.ensure_future(anext(live))
        await asyncio.sleep(0)
        waiting.cancel()  # of a wait, which may be taken up again, unless it had an end
        with suppress(asyncio.CancelledError):
            await waiting
        if drops:
            del live, waiting
            gc.collect()
        else:
            live.cancel()
            assert [piece async for piece in live if piece.answer] == []

    asyncio.run(run())
    check_idle(seeing)


def test_an_interrupted_wait_loses_nothing(seeing: Chat) -> None:
    async def run() -> str:
        live = await begun(seeing, messages(), **GREEDY)
        text = ""
        while True:
            wait = asyncio.ensure_future(anext(live, None))
            await asyncio.sleep(0)
            if not wait.done():
                wait.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await wait
                await asyncio.sleep(0.001)
                continue
            if (piece := wait.result()) is None:
                return text
            text += piece.text

    assert asyncio.run(run()) == seeing.ask(messages(), **GREEDY)


def test_plain_text_and_token_ids_go_on_where_they_end(chat: Chat) -> None:
    tokenizer = chat.processor.tokenizer
    text = "One, two, three, four,"
    ids = chat.engine.token_ids(text)
    assert ids == tokenizer(text)["input_ids"]
    (by_text,) = read(chat, text, **GREEDY)
    (by_ids,) = read(chat, ids, **GREEDY)
    assert facts(by_text) == facts(by_ids)
    assert by_text.num_input_tokens == len(ids)
    if chat.processor.text_only_grows:
        ends = set(chat.processor.terminator_ids)
        own = [token for token in by_text.token_ids if token not in ends]
        whole, before = chat.processor.text_of([*ids, *own]), chat.processor.text_of(ids)
        assert before + by_text == whole


def test_wrong_prompts_are_refused(seeing: Chat) -> None:
    size = len(seeing.processor.tokenizer)
    for prompt, reason in {
        (size,): f"Token 0 of the prompt is {size}",
        (1, -1): "Token 1 of the prompt is -1",
        (): "The prompt is empty",
        "": "The prompt is empty",
        (5,) * 100_000: "the model's context",
    }.items():
        with pytest.raises(ValueError, match=reason):
            asyncio.run(pieces_of(seeing, prompt, **GREEDY))
    with pytest.raises(ValueError, match="max_slice_nums"):
        asyncio.run(pieces_of(seeing, "Hello", max_slice_nums=2))


def test_an_error_comes_to_the_reader_and_ends_all(seeing: Chat) -> None:
    config = seeing.model.config
    width = config.get_text_config().hidden_size
    features = torch.full((1, config.query_num, width), torch.nan)
    question = messages("What?", picture(30, 40))
    with pytest.raises(ValueError, match="not finite"):
        asyncio.run(pieces_of(seeing, question, image_features=features, num_answers=2, **GREEDY))
    check_idle(seeing)


@pytest.mark.parametrize("options", [LONG, BEAMS | {"max_new_tokens": 3000}], ids=["own", "beams"])
def test_closing_the_engine_ends_readers(options: dict[str, Any]) -> None:
    chat = load(FOLDERS["2.6"], device="cpu", dtype="float32")

    async def run() -> None:
        live = await begun(chat, messages(), num_answers=2, **options)
        await asyncio.to_thread(chat.close)
        with pytest.raises(ValueError, match="closed"):
            async for _ in live:
                pass
        with pytest.raises(StopAsyncIteration):
            await anext(live)

    asyncio.run(run())


def test_a_picture_that_two_ask_about_at_once_is_encoded_once(seeing: Chat) -> None:
    async def run() -> list[str]:
        questions = [messages(text, picture(80, 60)) for text in ("What?", "Where?", "What?")]
        lives = await asyncio.gather(*(begun(seeing, each, **GREEDY) for each in questions))
        return ["".join([piece.text async for piece in live]) for live in lives]

    before = seeing.engine.stats()["steps"]["slices"]
    texts = asyncio.run(run())
    assert seeing.engine.stats()["steps"]["slices"] - before == 1
    for text, question in zip(texts, ("What?", "Where?", "What?"), strict=True):
        assert text == seeing.ask(messages(question, picture(80, 60)), **GREEDY)


def test_a_full_queue_takes_all_or_none() -> None:
    limits = EngineLimits(max_running=1, max_waiting=1)
    chat = load(FOLDERS["2.6"], device="cpu", dtype="float32", limits=limits)
    with pytest.raises(QueueFullError):
        read(chat, messages(), num_answers=3, **GREEDY)
    check_idle(chat)
    assert len(read(chat, messages(), num_answers=2, **GREEDY)) == 2
    chat.close()


def test_a_step_wakes_the_loop_once(seeing: Chat) -> None:
    woken = 0

    async def run() -> None:
        nonlocal woken
        loop = asyncio.get_running_loop()
        calls: Callable[..., Any] = loop.call_soon_threadsafe

        def counting(callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal woken
            woken += getattr(callback, "__name__", "") == "_deliver"
            return calls(callback, *args, **kwargs)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
        live = await begun(seeing, messages(), num_answers=8, **GREEDY)
        async for _ in live:
            pass

    before = seeing.engine.stats()["steps"]["decoder"]
    asyncio.run(run())
    assert 0 < woken <= seeing.engine.stats()["steps"]["decoder"] - before
