"""The small page: one chat with pictures and streamed answers, drawn by Streamlit.

`minicpmv ui --streamlit` runs this file by `streamlit run`, with the address of the server in the
environment. The released repositories had a page of this kind.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import streamlit as st

from minicpmv.serve.ui import conversation, looks
from minicpmv.serve.ui.client import Client, ServerError
from minicpmv.serve.ui.conversation import Options, Turn
from minicpmv.serve.ui.launch import STREAMLIT_API_KEY, STREAMLIT_BASE_URL, STREAMLIT_UPLOADS
from minicpmv.serve.ui.markup import without_pictures
from minicpmv.serve.ui.uploads import ACCEPTED, Uploads, expand
from minicpmv.serve.ui.words import PageError, language_of, say


def client() -> Client:
    """One for each question: a client belongs to one event loop."""
    return Client(os.environ[STREAMLIT_BASE_URL], os.environ.get(STREAMLIT_API_KEY))


def main() -> None:
    st.set_page_config(page_title="MiniCPM-V", page_icon="🔎")
    language = language_of(st.context.headers.get("Accept-Language"))
    uploads = Uploads(os.environ[STREAMLIT_UPLOADS])
    turns: list[Turn] = st.session_state.setdefault("turns", [])
    st.title("MiniCPM-V")
    options = draw_options(language)
    for turn in turns:
        draw_turn(turn, language)
    message = st.chat_input(
        say("ask_placeholder", language),
        accept_file="multiple",
        file_type=[suffix.removeprefix(".") for suffix in ACCEPTED],
    )
    if message:
        ask(message, turns, options, uploads, language)


def draw_options(language: str) -> Options:
    with st.sidebar:
        try:
            names = asyncio.run(models())
        except ServerError as error:
            st.error(error.message)
            names = []
        model = st.selectbox(say("model", language), names)
        system = st.text_area(say("system", language))
        is_sampled = st.toggle(f"{say('draw', language)}: {say('draw_sampled', language)}")
        temperature = st.slider(
            say("temperature", language), 0.05, 2.0, 0.7, disabled=not is_sampled
        )
        max_tokens = st.slider(say("max_tokens", language), 16, 4096, 512, 16)
        slices = st.slider(say("slices", language), 0, 16, 0, help=say("slices_hint", language))
        if st.button(say("new_chat", language)):
            st.session_state.turns.clear()
    draw = "sampled" if is_sampled else "model"
    return Options(
        model or "",
        system or "",
        draw,
        temperature=temperature,
        max_tokens=max_tokens,
        slices=slices,
    )


async def models() -> list[str]:
    async with client() as server:
        return [model.name for model in await server.models()]


def draw_turn(turn: Turn, language: str) -> None:
    with st.chat_message("user"):
        for file in turn.files:
            draw_file(file.kind, file.path)
        if turn.text:
            st.text(turn.text)
    with st.chat_message("assistant"):
        st.markdown(without_pictures(turn.answer))
        draw_end(turn, language)


def draw_file(kind: str, path: str) -> None:
    if kind == "video":
        st.video(path)
    else:
        st.image(path, width=320)


def draw_end(turn: Turn, language: str) -> None:
    if turn.ending == "error":
        st.error(looks.on_page(turn.problem, language))
    elif turn.cost is not None:
        st.caption(" · ".join(looks.cost_notes(turn.cost, language)))


def ask(message: Any, turns: list[Turn], options: Options, uploads: Uploads, language: str) -> None:
    try:
        files = [uploads.keep(file.getvalue(), file.name) for file in message.files]
        turn = Turn(message.text.strip(), tuple(expand(uploads, files)))
        asked = conversation.request([*turns, turn], options, uploads)
    except PageError as error:
        st.error(error.text(language))
        return
    with st.chat_message("user"):
        for file in turn.files:
            draw_file(file.kind, file.path)
        st.text(turn.text)
    turns.append(turn)
    with st.chat_message("assistant"):
        place = st.empty()
        try:
            for text in texts(asked, turns):
                place.markdown(without_pictures(text))
        finally:  # the Stop of the toolbar leaves here
            turns[:] = conversation.stop_last(turns)
        draw_end(turns[-1], language)


def texts(asked: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    """The answer as it grows; the last of `turns` grows with it."""
    with asyncio.Runner() as runner:
        server = client()
        growing = conversation.answer(server, asked, turns[-1])
        try:
            while (turn := runner.run(_next(growing))) is not None:
                turns[-1] = turn
                yield turn.answer
        finally:
            runner.run(growing.aclose())
            runner.run(server.close())


async def _next(turns: AsyncIterator[Turn]) -> Turn | None:
    return await anext(turns, None)


main()
