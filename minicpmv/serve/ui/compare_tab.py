"""The comparison: one question to two models, or to one with two settings, side by side."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from . import conversation, looks
from .client import Client
from .conversation import Turn
from .panel import Controls, make_controls, options
from .texts import Texts
from .uploads import ACCEPTED, Uploads, expand
from .words import LANGUAGES, PageError, say

LETTERS = ("A", "B")


@dataclass(frozen=True)
class _Side:
    model: Any
    controls: Controls

    def inputs(self) -> list[Any]:
        return [self.model, *self.controls.inputs()]


class CompareTab:
    """The two sides, and the question that both answer."""

    def __init__(self, client: Client, uploads: Uploads, texts: Texts, language: Any):
        self.client = client
        self.uploads = uploads
        self.texts = texts
        self.language = language
        self.turns = gr.State([])
        self._draw()
        self._connect()

    @property
    def models(self) -> list[Any]:
        return [side.model for side in self.sides]

    def _draw(self) -> None:
        add = self.texts.add
        add(
            gr.HTML(elem_id="compare-hint", elem_classes="hint"),
            value=lambda language: say("compare_hint", language),
        )
        self.box = add(
            gr.MultimodalTextbox(
                elem_id="compare-ask",
                file_count="multiple",
                file_types=ACCEPTED,
                sources=["upload"],
                max_plain_text_length=20_000,
                show_label=False,
            ),
            label="ask",
            placeholder="ask_placeholder",
        )
        with gr.Row(elem_id="sides"):
            models = [
                add(
                    gr.Dropdown([], elem_id=f"model-{letter.lower()}", min_width=140),
                    label=partial(_lettered, "model", letter),
                )
                for letter in LETTERS
            ]
        with gr.Row(elem_id="answers", equal_height=True):
            self.answers = [
                gr.HTML(elem_id=f"answer-{letter.lower()}", min_width=300, apply_default_css=False)
                for letter in LETTERS
            ]
        self.verdict = gr.HTML("", elem_id="verdict", elem_classes="hint")
        with gr.Row(elem_id="settings"):
            self.sides = [
                _Side(model, self._draw_options(letter))
                for model, letter in zip(models, LETTERS, strict=True)
            ]

    def _draw_options(self, letter: str) -> Controls:
        with gr.Column(min_width=300):
            options = self.texts.add(
                gr.Accordion(open=False), label=partial(_lettered, "options", letter)
            )
            with options:
                return make_controls(self.texts, compact=True)

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        told = [*self.answers, self.turns, self.verdict, self.box]
        inputs = [self.box, self.language, *self.sides[0].inputs(), *self.sides[1].inputs()]
        asked = self.box.submit(self.ask, inputs, told, concurrency_limit=None, **quiet)
        self.box.stop(
            self.stop, [self.turns, self.language], told, cancels=asked, queue=False, **quiet
        )

    async def ask(
        self, message: dict[str, Any], language: str, *values: Any
    ) -> AsyncGenerator[Any, None]:
        """Both answers as they grow, each at its own pace."""
        half = len(values) // 2
        text = (message.get("text") or "").strip()
        try:
            files = await asyncio.to_thread(self._attach, message)
            turns = [Turn(text, tuple(files)) for _ in LETTERS]
            asked = [
                await asyncio.to_thread(conversation.request, [turn], options(*given), self.uploads)
                for turn, given in zip(turns, (values[:half], values[half:]), strict=True)
            ]
        except PageError as error:
            raise gr.Error(
                error.text(LANGUAGES[language]),
                title=say("error", LANGUAGES[language]),
                print_exception=False,
            ) from error
        yield self._drawn(turns, language, submit_btn=False, stop_btn=True)
        growing = [
            conversation.answer(self.client, body, turn)
            for body, turn in zip(asked, turns, strict=True)
        ]
        async for side, turn in _together(growing):
            turns[side] = turn
            yield self._drawn(turns, language)
        yield self._drawn(turns, language, submit_btn=True, stop_btn=False)

    def _attach(self, message: dict[str, Any]) -> Any:
        files = [self.uploads.attach(path) for path in message.get("files") or ()]
        return expand(self.uploads, files)

    def stop(self, turns: list[Turn], language: str) -> Any:
        ended = [turn if turn.ending else replace(turn, ending="stopped") for turn in turns]
        if not ended:
            return [gr.skip() for _ in range(5)]
        return self._drawn(ended, language, submit_btn=True, stop_btn=False)

    def _drawn(self, turns: Sequence[Turn], language: str, **box: Any) -> tuple[Any, ...]:
        language = LANGUAGES[language]
        answers = [
            looks.side(turn, say("answer", language, letter=letter), language)
            for turn, letter in zip(turns, LETTERS, strict=True)
        ]
        ended = all(turn.ending in ("stop", "length") for turn in turns)
        same = ended and len({turn.answer.strip() for turn in turns}) == 1
        verdict = say("same", language) if same else ""
        return (*answers, list(turns), verdict, gr.update(**box) if box else gr.skip())


def _lettered(key: str, letter: str, language: str) -> str:
    return f"{say(key, language)} {letter}"


async def _together(
    growing: Sequence[AsyncIterator[Turn]],
) -> AsyncGenerator[tuple[int, Turn], None]:
    """What several iterators give, as it comes, with the number of each; all end together when
    this one is closed."""
    given: asyncio.Queue[tuple[int, Turn | None]] = asyncio.Queue()

    async def read(side: int) -> None:
        try:
            async for turn in growing[side]:
                given.put_nowait((side, turn))
        finally:
            given.put_nowait((side, None))

    tasks = [asyncio.create_task(read(side)) for side in range(len(growing))]
    try:
        left = len(tasks)
        while left:
            side, turn = await given.get()
            if turn is None:
                left -= 1
            else:
                yield side, turn
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
