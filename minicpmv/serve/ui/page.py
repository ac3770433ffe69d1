"""The page itself: header, tabs, looks, and the application that serves it."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from fastapi import FastAPI

from .chat_tab import ChatTab
from .client import Client, Model, ServerError
from .compare_tab import CompareTab
from .examples import make_examples
from .live import live_routes
from .live_tab import draw_live
from .policy import PagePolicy
from .texts import Texts
from .uploads import Uploads
from .words import LANGUAGES, say

ASSETS = Path(__file__).parent / "assets"
KEPT_S = 24 * 3600  # uploads are deleted a day after they were made
_SYSTEM = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_app(
    client: Client, folder: Path, *, root_path: str = "", max_file_mb: int = 64
) -> FastAPI:
    """The page and the live tab's routes as one application.

    Args:
        folder: for uploads; nothing beside it can be read through the page.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when components are made
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(live_routes(client))
    page = gr.mount_gradio_app(
        app,
        make_page(client),
        path="/",
        root_path=root_path or None,
        footer_links=[],
        show_error=False,
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
        max_file_size=f"{max_file_mb}mb",
        ssr_mode=False,
        enable_monitoring=False,
        theme=make_theme(),
        css=(ASSETS / "page.css").read_text(encoding="utf-8"),
        head=_head(),
        favicon_path=str(ASSETS / "icon.svg"),
    )
    page.add_middleware(PagePolicy)
    return page


def make_theme() -> gr.themes.Base:
    """System fonts, so that nothing is fetched; one accent colour."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=_SYSTEM,
        font_mono=_MONO,
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_shadow="none",
        block_title_text_weight="500",
        block_label_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def _head() -> str:
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    meta = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f"{meta}<script>{script}</script>"


def make_page(client: Client) -> gr.Blocks:
    """The components and their events."""
    texts = Texts()
    models: dict[str, Model] = {}
    with gr.Blocks(title="MiniCPM-V", analytics_enabled=False, fill_width=True) as page:
        uploads = Uploads(page.GRADIO_CACHE)
        with gr.Row(elem_id="header"):
            gr.HTML(_brand(), elem_id="brand", min_width=36, apply_default_css=False)
            model = texts.add(
                gr.Dropdown([], elem_id="model", container=False, min_width=150, scale=2),
                label="model",
            )
            status = gr.HTML("", elem_id="status", min_width=20)
            language = texts.add(
                gr.Radio(
                    list(LANGUAGES),
                    value="EN",
                    elem_id="language",
                    container=False,
                    show_label=False,
                    min_width=130,
                ),
                label="language",
            )
            texts.add(
                gr.HTML(
                    elem_id="dark",
                    min_width=36,
                    js_on_load="element.addEventListener('click', () => window.minicpmv.flip());",
                    apply_default_css=False,
                ),
                value=_dark_button,
            )
        with gr.Tabs(elem_id="tabs"):
            with texts.add(gr.Tab(id="chat"), label="chat"):
                chat = ChatTab(
                    client, uploads, texts, (model, language), models, make_examples(uploads)
                )
            with texts.add(gr.Tab(id="compare"), label="compare"):
                compare = CompareTab(client, uploads, texts, language)
            with texts.add(gr.Tab(id="live"), label="live"):
                draw_live()

        async def offered(name: str | None, language: str) -> list[Any]:
            """Ask the server what it offers, and say whether it could be asked."""
            try:
                found = await client.models()
            except ServerError as error:
                return [gr.skip(), _status(False, error.message, language), *_same(compare)]
            models.clear()
            models.update({model.name: model for model in found})
            up = _status(True, client.base_url, language)
            names = list(models)
            if name in models:  # what is chosen stays
                return [gr.update(choices=names), up, *[gr.update(choices=names)] * 2]
            sides = [gr.update(choices=names, value=value) for value in _two(names)]
            return [gr.update(choices=names, value=next(iter(names), None)), up, *sides]

        def translate(language: str, colours: bool, turns: Any, model: str) -> list[Any]:
            said = chat.redraw(language, colours, turns, model)
            return [*texts.updates(LANGUAGES[language]), said]

        async def begin(language: str, kept: Any, name: str | None) -> list[Any]:
            """The page in the language of this browser, with the conversation it kept."""
            await asyncio.to_thread(uploads.forget, time.time() - KEPT_S)
            offer = await offered(name, language)
            turns = chat.restore(kept)
            shown = name or next(iter(models), "")
            said = translate(language, False, turns, shown)
            return [language, turns, gr.update(interactive=True), *offer, *said]

        light: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        spoken = [*texts.components, chat.chat]
        told = [model, status, *compare.models]
        opened = page.load(
            begin,
            [language, chat.kept, model],
            [language, chat.turns, chat.box, *told, *spoken],
            js="(language, ...rest) => [window.minicpmv.name(), ...rest]",
            **light,
        )
        opened.then(chat.see, chat.cut, chat.drawn, **light)
        spoken_anew = language.input(
            translate,
            [language, chat.colours, chat.turns, model],
            spoken,
            js="(...values) => { window.minicpmv.speak(values[0]); return values; }",
            **light,
        )
        told_anew = spoken_anew.then(chat.see, chat.cut, chat.drawn, **light)
        told_anew.then(offered, [model, language], told, **light)
        for answered in chat.answered:  # the server may have come or gone meanwhile
            answered.then(offered, [model, language], told, **light)
    page.queue(default_concurrency_limit=16, api_open=False)
    return page


def _brand() -> str:
    icon = (ASSETS / "icon.svg").read_text(encoding="utf-8")
    return f"<h1>{icon}<span>MiniCPM-V</span></h1>"


def _dark_button(language: str) -> str:
    word = say("dark", language)
    return (
        f'<button type="button" class="tool" title="{word}" aria-label="{word}">'
        '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="8"/>'
        '<path class="filled" d="M12 4a8 8 0 0 1 0 16z"/></svg></button>'
    )


def _status(is_up: bool, detail: str, language: str) -> str:
    from html import escape

    word = say("connected" if is_up else "unreachable", LANGUAGES[language])
    title = escape(f"{word}: {detail}", quote=True)
    kind = "up" if is_up else "down"
    return f'<span class="status {kind}" title="{title}"><i></i><span>{word}</span></span>'


def _same(compare: CompareTab) -> list[Any]:
    return [gr.skip() for _ in compare.models]


def _two(names: list[str]) -> list[str | None]:
    """Models for the two sides of a comparison: different ones where there are two."""
    return [names[0], names[min(1, len(names) - 1)]] if names else [None, None]
