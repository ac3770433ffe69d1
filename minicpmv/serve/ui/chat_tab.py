"""The chat: a conversation about pictures, videos and documents."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from . import conversation, looks
from .client import Client, Model, ServerError
from .conversation import Turn
from .cut import panel
from .examples import Example
from .panel import Controls, make_controls, options, pages_hint
from .texts import Texts
from .uploads import ACCEPTED, Attachment, Uploads, expand
from .words import LANGUAGES, PageError, say

ASSETS = Path(__file__).parent / "assets"
DRAWN_S = 0.08  # between two pictures of an answer that grows


class ChatTab:
    """The components of the chat and what happens when they are used.

    Args:
        header: the model and the language, which all tabs share: (model, language).
        models: what the server offers, by name; filled when a page is opened.
    """

    def __init__(
        self,
        client: Client,
        uploads: Uploads,
        texts: Texts,
        header: tuple[Any, Any],
        models: dict[str, Model],
        examples: Sequence[Example],
    ):
        self.client = client
        self.uploads = uploads
        self.texts = texts
        self.model, self.language = header
        self.models = models
        self.examples = examples
        self.turns = gr.State([])
        self.last_seen = gr.State(None)
        self.kept = gr.BrowserState([], storage_key="minicpmv-chat")
        self._draw()
        self._connect()

    def _draw(self) -> None:
        add = self.texts.add
        with gr.Row(elem_id="chat-row"):
            with gr.Column(scale=5, min_width=320, elem_id="chat-column"):
                self.chat = gr.HTML(
                    looks.LOADING,  # until `begin` of the page has filled it
                    elem_id="chat",
                    js_on_load=(ASSETS / "chat.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                )
                self.box = add(
                    gr.MultimodalTextbox(
                        elem_id="ask",
                        file_count="multiple",
                        file_types=ACCEPTED,
                        sources=["upload"],
                        max_plain_text_length=20_000,
                        show_label=False,
                        autofocus=True,
                        interactive=False,
                    ),
                    label="ask",
                    placeholder="ask_placeholder",
                )
                with gr.Row(elem_id="chat-tools"):
                    self.new = add(
                        gr.Button(size="sm", variant="secondary", min_width=90), value="new_chat"
                    )
                    self.camera = add(
                        gr.HTML(
                            elem_id="camera",
                            min_width=90,
                            js_on_load=(ASSETS / "camera.js").read_text(encoding="utf-8"),
                            apply_default_css=False,
                        ),
                        value=looks.camera,
                    )
                    self.colours = add(
                        gr.Checkbox(False, elem_id="colours", min_width=220, container=False),
                        label="probabilities",
                    )
            with gr.Column(scale=2, min_width=300, elem_id="side"):
                with add(gr.Accordion(elem_id="seen"), label="seen"):
                    self.seen = gr.HTML(panel([], self.uploads, None, 0, "en"), padding=True)
                with add(gr.Accordion(open=False, elem_id="options"), label="options"):
                    self.controls: Controls = make_controls(self.texts)
                    self.pages = add(gr.Textbox(max_lines=1), label="pages", placeholder=pages_hint)

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        light = {**quiet, "queue": False}
        ask = [self.language, self.colours, self.turns, self.model, *self.controls.inputs()]
        told = [self.chat, self.turns, self.box]
        running = {**quiet, "concurrency_limit": None}

        # A question is one event from the click to the last word, so that one stop ends it.
        events = [
            self.box.submit(self.ask, [self.box, self.pages, *ask], told, **running),
            self.chat.retry(self._anew(self.retry), ask, told, **running),
            self.chat.edit(self._anew(self.edit), ask, told, **running),
            self.chat.example_select(self._anew(self.example), ask, told, **running),
        ]
        self.answered = events
        stopped = self.box.stop(self.stop, ask[:3], told, cancels=events, **light)
        cleared = self.new.click(self.clear, ask[:4], told, cancels=events, **light)
        for event in (*events, stopped, cleared):
            event.then(conversation.dump, self.turns, self.kept, **light)
            event.then(self.see, self.cut, self.drawn, **quiet)
        self.colours.change(self.redraw, ask[:4], self.chat, **light)
        gr.on(
            [self.box.change, self.pages.change, self.controls.slices.release, self.model.change],
            self.see,
            self.cut,
            self.drawn,
            trigger_mode="always_last",
            **quiet,
        )
        self.camera.upload(self.photograph, self.box, self.box, **light)

    @property
    def cut(self) -> list[Any]:
        """What `see` needs to know."""
        told = [self.turns, self.box, self.pages, self.model, self.language]
        return [*told, self.controls.slices, self.last_seen]

    @property
    def drawn(self) -> list[Any]:
        """What `see` changes."""
        return [self.seen, self.last_seen]

    def redraw(self, language: str, colours: bool, turns: list[Turn], model: str = "") -> str:
        """The conversation, or what there is to see before it begins."""
        code = LANGUAGES[language]
        if turns:
            return looks.conversation(turns, code, colours=colours)
        note = say("nano_note", code) if model == "nano" else ""
        return looks.welcome(self.examples, code, note)

    async def ask(
        self,
        message: dict[str, Any],
        pages: str,
        language: str,
        colours: bool,
        turns: list[Turn],
        *rest: Any,
    ) -> AsyncGenerator[Any, None]:
        """Put the question in the box at the end of the conversation, and answer it.

        Raises:
            gr.Error: nothing is asked, or a file cannot be used.
        """
        text = (message.get("text") or "").strip()
        try:
            files = await asyncio.to_thread(self._attach, message, pages)
            if not text and not files:
                raise PageError("nothing_asked")
        except PageError as error:
            raise _as_error(error, language) from error
        turns = [*turns, Turn(text, tuple(files))]
        async with aclosing(self.answer(language, colours, turns, *rest, value=None)) as steps:
            async for step in steps:
                yield step

    def _attach(self, message: dict[str, Any], pages: str) -> list[Attachment]:
        files = [self.uploads.attach(path) for path in message.get("files") or ()]
        return expand(self.uploads, files, pages or "")

    async def answer(
        self,
        language: str,
        colours: bool,
        turns: list[Turn],
        model: str,
        *values: Any,
        **box: Any,
    ) -> AsyncGenerator[Any, None]:
        """Answer the last turn: the conversation as it grows, its turns, and the box.

        Args:
            box: properties of the box, when the answer begins.
        """
        ready = gr.update(submit_btn=True, stop_btn=False)
        before = turns[:-1]
        running = gr.update(submit_btn=False, stop_btn=True, **box)
        yield self.redraw(language, colours, turns), turns, running
        try:
            if not model:  # none was offered when the page was opened
                model = next((each.name for each in await self.client.models()), "")
            asked = await asyncio.to_thread(
                conversation.request, turns, options(model, *values), self.uploads
            )
        except (PageError, ServerError) as error:
            problem = _problem(error, language)
            turns = [*before, replace(turns[-1], ending="error", problem=problem)]
            yield self.redraw(language, colours, turns), turns, ready
            return
        drawn = 0.0
        async with aclosing(conversation.answer(self.client, asked, turns[-1])) as growing:
            async for turn in growing:
                turns = [*before, turn]
                if turn.ending or time.monotonic() - drawn > DRAWN_S:
                    drawn = time.monotonic()
                    state = ready if turn.ending else gr.skip()
                    yield self.redraw(language, colours, turns), turns, state

    def _anew(self, change: Callable[[gr.EventData, list[Turn], str], list[Turn]]) -> Any:
        """An event that answers the last turn of the turns that `change` makes."""

        async def answered(
            data: gr.EventData, language: str, colours: bool, turns: list[Turn], *rest: Any
        ) -> AsyncGenerator[Any, None]:
            turns = change(data, turns, LANGUAGES[language])
            async with aclosing(self.answer(language, colours, turns, *rest)) as steps:
                async for step in steps:
                    yield step

        return answered

    def retry(self, data: gr.EventData, turns: list[Turn], language: str) -> list[Turn]:
        place = _place(data, "turn", turns)
        return [*turns[:place], turns[place].asked_again()]

    def edit(self, data: gr.EventData, turns: list[Turn], language: str) -> list[Turn]:
        place = _place(data, "turn", turns)
        text = str(data._data.get("text", "")).strip()
        return [*turns[:place], Turn(text, turns[place].files)]

    def example(self, data: gr.EventData, turns: list[Turn], language: str) -> list[Turn]:
        example = self.examples[_place(data, "example", self.examples)]
        return [Turn(example.text(language), example.files)]

    def stop(self, language: str, colours: bool, turns: list[Turn]) -> Any:
        turns = conversation.stop_last(turns)
        ready = gr.update(submit_btn=True, stop_btn=False)
        return self.redraw(language, colours, turns), turns, ready

    def clear(self, language: str, colours: bool, turns: list[Turn], model: str) -> Any:
        empty = gr.update(value=None, submit_btn=True, stop_btn=False)
        return self.redraw(language, colours, [], model), [], empty

    def restore(self, kept: Any) -> list[Turn]:
        """The conversation that the browser kept, when the page is opened again."""
        return conversation.restore(kept, self.uploads)

    def see(
        self,
        turns: list[Turn],
        message: dict[str, Any],
        pages: str,
        model: str,
        language: str,
        slices: int,
        last: Any,
    ) -> tuple[Any, Any]:
        """How the pictures in the box are cut; those of the last turn where it holds none.

        `last` is what was drawn before: nothing is drawn anew while somebody types.
        """
        message = message or {}
        asked = next((turn.files for turn in reversed(turns) if turn.files), ())
        now = (
            message.get("files") or [file.path for file in asked],
            pages,
            model,
            language,
            slices,
        )
        if now == last:
            return gr.skip(), gr.skip()
        files: Sequence[Attachment] = ()
        with suppress(PageError):  # said when it is sent
            files = self._attach(message, pages)
        offered = self.models.get(model)
        code = LANGUAGES[language]
        return panel(files or asked, self.uploads, offered, int(slices or 0), code), now

    def photograph(self, message: dict[str, Any], data: gr.EventData) -> Any:
        """Put the picture of the camera into the box."""
        message = message or {}
        photo = self.uploads.check(str(data._data.get("path")))
        files = [*(message.get("files") or ()), str(photo)]
        return gr.update(value={"text": message.get("text") or "", "files": files})


def _place(data: gr.EventData, name: str, items: Sequence[Any]) -> int:
    """An index that the browser named."""
    place = data._data.get(name)
    if type(place) is not int or not 0 <= place < len(items):
        raise gr.Error(say("gone", "en"), print_exception=False)
    return place


def _problem(error: PageError | ServerError, language: str) -> str:
    return error.message if isinstance(error, ServerError) else error.text(LANGUAGES[language])


def _as_error(error: PageError, language: str) -> gr.Error:
    language = LANGUAGES[language]
    return gr.Error(error.text(language), title=say("error", language), print_exception=False)
