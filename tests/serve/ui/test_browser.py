"""The page in a browser: runs where Gradio, Playwright and Chromium are (`-m slow`).

`AXE_JS` is the place of `axe.min.js` of the npm package axe-core, for the test of accessibility.
"""

import os
import signal
from pathlib import Path

import pytest

from minicpmv.child_servers import free_port

from ...helpers.browser import CHROMIUM, FLAGS, Watch, page_process
from ...helpers.openai_server import FakeServer
from ...helpers.uploads import pdf, png

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    pytest.mark.filterwarnings("ignore"),
]
WAIT_MS = 15_000


@pytest.fixture(scope="module")
def server():
    return FakeServer()


@pytest.fixture(scope="module")
def address(server):
    with server.running() as url, page_process("--base-url", url) as (address, _):
        yield address


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address, server):
    """Opens the page; at the end nothing may have been wrong with it."""
    contexts, watches = [], []
    server.pause_s, server.refuses, server.breaks_after = 0.0, None, None

    def opened(url=address, **options):
        options = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US", **options}
        context = chromium.new_context(permissions=["camera"], **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        watches.append(Watch(page, url))
        page.goto(url)
        page.wait_for_selector("#status .up, #status .down")
        page.wait_for_selector(".welcome, .turn")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [fault for watch in watches for fault in watch.faults] == []


def ask(page, text, *files):
    if files:
        page.set_input_files("#ask input[type=file]", list(files))
        page.wait_for_selector("#ask .thumbnail-wrapper")
    page.fill("#ask textarea", text)
    page.press("#ask textarea", "Enter")


def wait_for_end(page, turn=0):
    page.locator(".turn").nth(turn).locator("[data-do=retry]").wait_for()


def wait_until(page, is_so):
    for _ in range(WAIT_MS // 100):
        if is_so():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come to be")


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "big.png"
    file.write_bytes(png(1344, 896))
    return file


def test_ask_about_pictures_and_see_the_cut_and_the_cost(visit, picture, server):
    page = visit()
    page.set_input_files("#ask input[type=file]", picture)
    page.wait_for_selector(".cut .grid")  # before it is sent
    assert page.locator(".cut .grid i").count() == 6
    ask(page, "What is **this** <b>?")
    wait_for_end(page)
    assert page.inner_text(".question .text") == "What is **this** <b>?"
    assert page.inner_text(".answer strong") == "two"
    assert "100 (40 remembered) + 11 tokens" in page.inner_text(".cost")
    other = picture.with_name("other.png")
    other.write_bytes(png())
    ask(page, "And here?", other)
    wait_for_end(page, 1)
    content = server.asked[-1]["messages"]
    assert [message["role"] for message in content] == ["user", "assistant", "user"]
    assert content[2]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert page.locator(".files img").count() == 2
    broken = "imgs => imgs.filter(img => !img.naturalWidth).length"
    assert page.eval_on_selector_all(".files img", broken) == 0


@pytest.mark.parametrize("event", ["drop", "paste"])
@pytest.mark.parametrize("place", ["#chat", "#ask textarea"])
def test_pictures_are_dropped_and_pasted_anywhere(event, place, visit):
    page = visit()
    page.evaluate(
        """([event, place, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            const kind = event === "drop" ? DragEvent : ClipboardEvent;
            const given = event === "drop" ? { dataTransfer: data } : { clipboardData: data };
            const options = { bubbles: true, cancelable: true, ...given };
            document.querySelector(place).dispatchEvent(new kind(event, options));
        }""",
        [event, place, list(png())],
    )
    page.wait_for_selector("#ask .thumbnail-wrapper")
    page.wait_for_timeout(500)
    assert page.locator("#ask .thumbnail-wrapper").count() == 1
    assert page.locator(".cuts figure").count() == 1


def test_stop_retry_edit_and_reload(visit, server):
    page = visit()
    server.pause_s = 0.3
    ask(page, "Slowly?")
    page.wait_for_function("document.querySelector('.answer')?.innerText.includes('see')")
    left = server.left
    page.click("#ask .stop-button")
    wait_for_end(page)
    assert "stopped" in page.inner_text(".cost")
    said = page.inner_text(".answer")
    assert 0 < len(said) < len(" ".join(server.words))
    page.wait_for_timeout(700)
    assert page.inner_text(".answer") == said
    wait_until(page, lambda: server.left == left + 1)
    server.pause_s = 0.0
    page.click("[data-do=retry]")
    page.wait_for_function("document.querySelector('.answer')?.innerText.includes('square')")
    wait_for_end(page)
    page.click("[data-do=edit]")
    page.fill(".question textarea", "Edited?")
    page.press(".question textarea", "Enter")
    page.wait_for_function("document.querySelector('.question .text')?.innerText == 'Edited?'")
    wait_for_end(page)
    assert server.asked[-1]["messages"] == [{"role": "user", "content": "Edited?"}]
    page.wait_for_timeout(300)  # the browser keeps it
    page.reload()
    page.wait_for_selector(".turn")
    assert page.inner_text(".question .text") == "Edited?"
    page.click("text=New chat")
    page.wait_for_selector(".welcome")


def test_stop_before_the_first_word(visit, server):
    page = visit()
    server.pause_s = 30.0
    left = server.left
    ask(page, "Never?")
    page.wait_for_selector(".waiting")
    page.click("#ask .stop-button")
    wait_for_end(page)
    wait_until(page, lambda: server.left == left + 1)


def test_what_the_server_refuses_is_said(visit, server):
    page = visit()
    server.refuses = "The prompt has <5000> tokens; the model takes 4096."
    ask(page, "Too long?")
    page.wait_for_selector(".problem")
    assert server.refuses in page.inner_text(".problem")
    server.refuses = None
    page.click("[data-do=retry]")
    page.wait_for_selector(".answer strong")


def test_a_long_conversation_scrolls_and_leaves_the_box_its_place(visit):
    page = visit()
    place = page.locator("#ask").bounding_box()
    for turn in range(2):
        ask(page, "So many words. " * 300)
        wait_for_end(page, turn)
    assert page.evaluate("document.querySelector('#chat').scrollTop") > 0
    assert page.locator("#ask").bounding_box() == place
    form = page.locator("#chat-column > .form:has(#ask)").bounding_box()
    assert form["y"] <= place["y"]
    assert form["y"] + form["height"] >= place["y"] + place["height"]  # nothing of it is hidden


def test_a_server_that_comes_later_is_found(visit, server):
    port = free_port()
    with page_process("--base-url", f"http://127.0.0.1:{port}") as (url, _):
        page = visit(url)
        page.wait_for_selector("#status .down")
        ask(page, "Hello?")
        page.wait_for_selector(".problem")
        assert f"http://127.0.0.1:{port}/v1 cannot be reached" in page.inner_text(".problem")
        with server.running(port):
            page.click("[data-do=retry]")
            page.wait_for_selector(".answer strong")
            page.wait_for_selector("#status .up")
            assert page.input_value("#model input") == "tiny"


def test_documents_by_their_pages(visit, server, tmp_path):
    (tmp_path / "report.pdf").write_bytes(pdf(3))
    page = visit()
    page.click("#options button >> nth=0")
    page.get_by_label("Pages of a document").fill("3, 1")
    ask(page, "Summarise.", tmp_path / "report.pdf")
    wait_for_end(page)
    alts = page.eval_on_selector_all(".files img", "imgs => imgs.map(img => img.alt)")
    assert alts == ["report-p3.png", "report-p1.png"] or alts == ["report p3.png", "report p1.png"]
    assert len(server.asked[-1]["messages"][0]["content"]) == 3


def test_options_reach_the_server(visit, server):
    page = visit()
    page.click("#options button >> nth=0")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("sampled").check()
    page.get_by_label("Seed").fill("7")
    page.press("text=Seed", "Tab")
    ask(page, "What?")
    wait_for_end(page)
    asked = server.asked[-1]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["top_p"], asked["seed"]) == (0.7, 0.9, 7)


def test_probabilities_on_hover_and_by_keyboard(visit):
    page = visit()
    ask(page, "What?")
    wait_for_end(page)
    page.check("#colours input")
    page.wait_for_selector(".token")
    assert page.inner_text(".tokens").startswith("I see **two**")
    page.hover(".token >> nth=2")
    tip = page.locator(".token >> nth=2").locator(".tip")
    assert "97.0 %" in tip.inner_text()
    assert "<b>other</b>" in tip.inner_text()
    page.focus(".tokens")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.innerText").startswith(" **two**")


def test_examples_and_the_camera(visit, server):
    page = visit()
    page.click(".example >> nth=3")
    wait_for_end(page)
    assert page.locator(".files img").count() == 2
    page.click("text=Camera")
    page.wait_for_function("!document.querySelector('[data-do=take]').disabled")
    page.click("[data-do=take]")
    page.wait_for_selector("#ask .thumbnail-wrapper")
    ask(page, "And now?")
    wait_for_end(page, 1)
    assert server.asked[-1]["messages"][2]["content"][0]["type"] == "image_url"


def test_compare_two_models(visit, server, picture):
    page = visit()
    page.click("role=tab[name=Compare]")
    page.set_input_files("#compare-ask input[type=file]", picture)
    page.wait_for_selector("#compare-ask .thumbnail-wrapper")
    page.fill("#compare-ask textarea", "What?")
    page.press("#compare-ask textarea", "Enter")
    page.wait_for_selector("text=Both answers are the same.")
    assert {body["model"] for body in server.asked[-2:]} == {"tiny", "other"}
    assert page.locator("#answer-a .cost").count() == page.locator("#answer-b .cost").count() == 1


def test_live_answers_and_drops_what_is_older(visit, server):
    page = visit()
    server.pause_s = 0.05
    page.click("role=tab[name=Live]")
    page.select_option(".live-rate", "10")
    page.click(".live-start")
    page.wait_for_function("document.querySelectorAll('.live-log li').length >= 2")
    assert int(page.inner_text(".live-dropped")) > 0
    assert page.inner_text(".live-delay").endswith(" s")
    asked = server.asked[-1]["messages"][0]["content"]
    assert asked[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    page.click(".live-start")
    assert "camera is off" in page.inner_text(".live-note")


def test_dark_chinese_and_a_phone(visit):
    page = visit(
        viewport={"width": 390, "height": 844},
        locale="zh-CN",
        color_scheme="dark",
        has_touch=True,
        is_mobile=True,
    )
    assert page.inner_text("role=tab >> nth=0") == "对话"
    assert page.evaluate("document.body.classList.contains('dark')")
    for tab in range(3):
        page.click(f"role=tab >> nth={tab}")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.click("role=tab >> nth=0")
    box = page.locator("#ask").bounding_box()
    assert box["y"] + box["height"] <= 844  # no scrolling to ask
    page.click("#dark button")
    page.get_by_label("EN", exact=True).check()
    page.wait_for_selector("text=Show me something")
    page.wait_for_timeout(1000)  # Gradio calls a request that a reload cuts off an error
    page.reload()
    page.wait_for_selector("text=Show me something")
    assert not page.evaluate("document.body.classList.contains('dark')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(scheme, visit, picture):
    path = os.environ.get("AXE_JS")
    if not path:
        pytest.skip("AXE_JS is not set")
    page = visit(color_scheme=scheme)
    axe = Path(path).read_text(encoding="utf-8")
    found = []

    def look(where):
        page.evaluate(axe)
        result = page.evaluate("axe.run()")
        found.extend(
            (where, fault["id"], fault["nodes"][0]["html"])
            for fault in result["violations"]
            if fault["impact"] in ("serious", "critical")
        )

    look("welcome")
    page.set_input_files("#ask input[type=file]", picture)
    page.wait_for_selector(".cut .grid")
    look("picture")
    ask(page, "What?")
    wait_for_end(page)
    page.check("#colours input")
    page.click("#options button >> nth=0")
    page.wait_for_timeout(500)
    look("answer")
    for tab in ("Compare", "Live"):
        page.click(f"role=tab[name={tab}]")
        page.wait_for_timeout(300)
        look(tab)
    assert found == []


def test_no_file_beyond_the_uploads_is_served(chromium, address):
    context = chromium.new_context()
    for path in ("/etc/passwd", __file__, str(Path(__file__).parents[3] / "pyproject.toml")):
        response = context.request.get(f"{address}gradio_api/file={path}")
        assert response.status in (403, 404)
    headers = context.request.get(address).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    context.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_server_and_page_start_and_end_together(chromium, number, code):
    port = free_port()
    with page_process("--server-port", str(port)) as (address, process):
        context = chromium.new_context()
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(address)
        page.click(".example >> nth=0")
        wait_for_end(page)
        assert len(page.inner_text(".answer")) > 5
        assert "tokens" in page.inner_text(".cost")
        context.close()
        os.killpg(process.pid, number)
        assert process.wait(60) == code
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
