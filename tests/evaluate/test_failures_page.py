"""The page of failures: hostile texts stay texts, what is worst comes first, and it stays small."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics.contract import Score, Scored
from minicpmv.evaluate.report.html import Judged, Written, state_of, write_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \u2028 {script} \ud800"


def picture(size=(40, 30), form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(file, form)
    return file.getvalue()


class Page(HTMLParser):
    """What a browser would find: scripts, styles, the policy, and all other tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.policy = [], {}, ""
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self._open = attrs.get("id", tag) if tag in ("script", "style") else None
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]
        assert not any(name.startswith("on") for name in attrs)
        assert tag not in ("link", "iframe")
        assert "src" not in attrs

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data


def write(tmp_path, items, values, answers=None, **more):
    judged = {
        item.id: Judged((answers or {}).get(item.id, "said"), Scored(value, "read"))
        for item, value in zip(items, values, strict=True)
    }
    path = tmp_path / "report.html"
    written = write_page(path, items, judged, **{"title": "a run", **more})
    text = path.read_text(encoding="utf-8")
    return Page(text), written, text


def shown(page):
    return json.loads(page.texts["data"])["items"]


def items(number, **more):
    return [Item(str(n), f"question {n}", **more) for n in range(number)]


def test_hostile_texts_stay_texts(tmp_path):
    item = Item(
        HOSTILE,
        HOSTILE,
        (picture(),),
        (HOSTILE,),
        {"A": HOSTILE},
        {"category": HOSTILE, HOSTILE: {"a": [HOSTILE]}},
    )
    score = Score(HOSTILE, 0, 0, 0, 1, unit=HOSTILE)
    page, _, text = write(tmp_path, [item], [0], {item.id: HOSTILE}, title=HOSTILE, scores=[score])
    assert page.tags.count("script") == 2
    assert page.tags.count("img") == 1  # the empty one that shows a picture larger
    (found,) = shown(page)
    clean = HOSTILE.replace("\ud800", "?")
    assert found["question"] == found["said"] == found["id"] == clean
    assert "onerror=alert" in text
    assert "<img src=x" not in text


def test_only_its_own_script_and_style_may_run(tmp_path):
    page, _, _ = write(tmp_path, items(1), [0])
    for name, directive in (("script", "script-src"), ("style", "style-src")):
        digest = hashlib.sha256(page.texts[name].encode()).digest()
        assert f"{directive} 'sha256-{base64.b64encode(digest).decode()}'" in page.policy
    assert page.policy.startswith("default-src 'none'; img-src data:;")
    assert "innerHTML" not in page.texts["script"]


def test_the_worst_come_first(tmp_path):
    page, written, _ = write(tmp_path, items(5), [1, 0.5, None, 0, 0.2])
    assert [each["id"] for each in shown(page)] == ["3", "2", "4", "1", "0"]
    assert [each["state"] for each in shown(page)] == ["wrong", "unread", "part", "part", "right"]
    assert written == Written(5, 4, 5)


def test_errors_are_turned_round(tmp_path):
    score = Score("error rate", 50, 0, 100, 3, less_is_better=True)
    page, written, _ = write(tmp_path, items(3), [0, 0.4, 1.7], scores=[score])
    assert [each["id"] for each in shown(page)] == ["2", "1", "0"]
    assert written.failures == 2
    assert state_of(Scored(0.0), less_is_better=True) == "right"


def test_what_is_left_out_is_said(tmp_path):
    page, written, text = write(tmp_path, items(10), [0] * 10, most=3)
    assert written == Written(3, 10, 10)
    assert "10 answers, 10 of them not wholly right; the page shows 3" in text
    assert len(shown(page)) == 3


def test_the_file_ends_before_it_is_too_large(tmp_path):
    noise = Image.effect_noise((600, 600), 90).convert("RGB")
    file = io.BytesIO()
    noise.save(file, "PNG")
    many = items(20, pictures=(file.getvalue(),))
    _, written, text = write(tmp_path, many, [0] * 20, most_bytes=600_000)
    assert 0 < written.shown < 20
    assert len(text) < 700_000


def test_pictures_are_made_small(tmp_path):
    item = Item("0", "?", (picture((3000, 1500)), picture((20, 20))))
    page, _, _ = write(tmp_path, [item], [0])
    sizes = []
    for url in shown(page)[0]["pictures"]:
        kind, _, data = url.partition(",")
        assert kind == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(768, 384), (20, 20)]


def test_broken_and_too_many_pictures_are_named(tmp_path):
    item = Item("0", "?", (b"no picture", *[picture()] * 7))
    page, _, _ = write(tmp_path, [item], [0])
    (found,) = shown(page)
    assert len(found["pictures"]) == 5
    assert found["note"].startswith("Picture 1 cannot be shown: ")
    assert found["note"].endswith("2 more pictures are not shown.")


def test_categories_are_found(tmp_path):
    rows = [
        Item(str(n), "?", fields={"category": "ab"[n % 2], "one": "same", "own": f"row {n}"})
        for n in range(6)
    ]
    page, _, _ = write(tmp_path, rows, [0] * 6)
    assert json.loads(page.texts["data"])["groups"] == [["category", ["a", "b"]]]


def test_long_texts_are_cut(tmp_path):
    page, _, _ = write(tmp_path, items(1), [0], {"0": "x" * 9000})
    assert shown(page)[0]["said"].endswith("x [and 1000 characters more]")


def test_items_without_an_answer_are_left_out(tmp_path):
    rows = items(3)
    path = tmp_path / "report.html"
    written = write_page(path, rows, {"1": Judged("said", Scored(0.0))}, title="a run")
    assert written == Written(1, 1, 1)
    assert re.search(r'"id": "1"', path.read_text())


@pytest.mark.parametrize("name", ["css", "js", "html"])
def test_the_parts_load_nothing_from_elsewhere(name):
    from minicpmv.evaluate.report import html

    text = (html._FOLDER / f"failures.{name}").read_text()
    assert not re.search(r"https?://|@import|url\(", text)
