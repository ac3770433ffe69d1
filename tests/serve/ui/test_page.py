"""The page is put together, and what it answers browsers, where Gradio is installed."""

import asyncio
import contextlib

import pytest

from minicpmv.serve.ui.conversation import Turn
from minicpmv.serve.ui.policy import HEADERS

from ...helpers.uploads import png

pytest.importorskip("gradio")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def event_loops(monkeypatch):
    """Gradio makes loops that it leaves open: for each lock, where none runs."""
    made = []
    new = asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: made.append(new()) or made[-1])
    yield
    asyncio.set_event_loop(None)
    for loop in made:
        loop.close()


@pytest.fixture
def page_module(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from minicpmv.serve.ui import page

    return page


def test_every_event_is_private_and_every_text_translated(page_module, client):
    page = page_module.make_page(client)
    assert len(page.fns) > 10
    assert {fn.api_visibility for fn in page.fns.values()} == {"private"}
    shown = str(page.get_config_file()["components"])
    assert "What the model sees" in shown
    assert "fonts.googleapis" not in shown


def test_texts_follow_the_language(page_module, client):
    import gradio as gr

    from minicpmv.serve.ui.texts import Texts

    texts = Texts()
    with gr.Blocks():
        box = texts.add(gr.Textbox(), label="system", placeholder=lambda language: language)
    assert (box.label, box.placeholder) == ("System prompt", "en")
    (update,) = texts.updates("zh")
    assert (update["label"], update["placeholder"]) == ("系统提示词", "zh")


@pytest.fixture
def chat(page_module, client, uploads):
    import gradio as gr

    from minicpmv.serve.ui.chat_tab import ChatTab
    from minicpmv.serve.ui.examples import make_examples
    from minicpmv.serve.ui.texts import Texts

    with gr.Blocks():
        header = (gr.Dropdown([]), gr.Radio(["EN", "中文"]))
        return ChatTab(client, uploads, Texts(), header, {}, make_examples(uploads))


def test_a_question_and_its_answer(chat, client, server):
    values = ["", "model", 0.7, 0.9, "", 512, 1, 0, 0]

    async def ask():
        message = {"text": " What? ", "files": [chat.uploads.keep(png(), "a.png").path]}
        async with client:
            return [step async for step in chat.ask(message, "", "EN", False, [], "tiny", *values)]

    first, *_, (html, ended, box) = asyncio.run(ask())
    assert [(turn.text, len(turn.files), turn.answer) for turn in first[1]] == [("What?", 1, "")]
    assert (first[2]["submit_btn"], first[2]["stop_btn"], first[2]["value"]) == (False, True, None)
    assert ended[0].ending == "stop"
    assert "<strong>two</strong>" in html
    assert (box["submit_btn"], box["stop_btn"]) == (True, False)


def test_nothing_asked_and_files_elsewhere_are_refused(chat):
    import gradio as gr

    for message in ({"text": " "}, {"text": "x", "files": ["/etc/passwd"]}):
        with pytest.raises(gr.Error, match=r"Write a question|not uploaded here"):
            asyncio.run(anext(chat.ask(message, "", "EN", False, [], "tiny")))


def test_turns_that_are_not_there_are_refused(chat):
    import gradio as gr

    turns = [Turn("What?", ending="stop")]
    for place in (1, -1, "0", None, True):
        data = gr.EventData(None, {"turn": place})
        with pytest.raises(gr.Error, match="no longer there"):
            chat.retry(data, turns, "en")
    edited = chat.edit(gr.EventData(None, {"turn": 0, "text": " New "}), turns, "en")
    assert edited == [Turn("New")]


def test_the_cut_is_drawn_once_while_somebody_types(chat):
    import gradio as gr

    message = {"text": "W", "files": [chat.uploads.keep(png(), "a.png").path]}
    drawn, seen = chat.see([], message, "", "tiny", "EN", 0, None)
    assert "a.png" in drawn
    assert chat.see([], message | {"text": "What"}, "", "tiny", "EN", 0, seen) == (gr.skip(),) * 2
    with contextlib.suppress(ValueError):
        assert chat.see([], message, "", "tiny", "EN", 4, seen)[0] != gr.skip()


def test_the_application_forbids_other_hosts(page_module, client, tmp_path):
    from starlette.testclient import TestClient

    app = page_module.make_app(client, tmp_path, max_file_mb=1)
    with TestClient(app) as page:
        response = page.get("/")
        assert response.status_code == 200
        for name, value in HEADERS.items():
            assert response.headers[name] == value
        assert "googleapis" not in response.text
        assert page.get("/gradio_api/file=/etc/passwd").status_code in (403, 404)
        assert page.get("/openapi.json").status_code == 404
        assert page.get("/live/models").json() == {"models": ["tiny", "other"]}
        large = {"files": ("a.png", b"x" * (2 * 2**20))}
        assert page.post("/gradio_api/upload", files=large).status_code == 413
