"""Uploads: nothing else is read, and documents become pictures."""

import base64
import os
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.serve.ui.uploads import (
    MAX_PAGES,
    PAGE_PX,
    Attachment,
    choose_pages,
    expand,
    kind_of,
    render_pages,
)
from minicpmv.serve.ui.words import PageError

from ...helpers.uploads import pdf, png


def test_a_picture_becomes_a_data_url(uploads):
    kept = uploads.keep(png(), "a b.png")
    assert kept.kind == "picture"
    head, _, data = uploads.data_url(kept).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == png()


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "{folder}/../secret.png"])
def test_files_elsewhere_are_not_read(path, uploads):
    (uploads.folder.parent / "secret.png").write_bytes(png())
    path = path.format(folder=uploads.folder)
    with pytest.raises(PageError, match="was not uploaded here"):
        uploads.attach(path, "a.png")
    with pytest.raises(PageError, match="was not uploaded here"):
        uploads.data_url(Attachment(path, "a.png", "picture"))


def test_a_link_out_of_the_folder_is_not_followed(uploads):
    secret = uploads.folder.parent / "secret.png"
    secret.write_bytes(png())
    link = uploads.folder / "link.png"
    link.symlink_to(secret)
    with pytest.raises(PageError, match="was not uploaded here"):
        uploads.attach(str(link))


def test_a_file_that_is_gone(uploads):
    kept = uploads.keep(png(), "a.png")
    uploads.check(kept.path).unlink()
    with pytest.raises(PageError, match="no longer kept"):
        uploads.data_url(kept)


def test_old_files_are_forgotten_and_examples_last(uploads):
    example = uploads.keep(png(), "example.png", is_lasting=True)
    old, new = uploads.keep(png(1), "old.png"), uploads.keep(png(2), "new.png")
    for file, written in ((example, 0), (old, 100), (new, 300)):
        os.utime(file.path, (written, written))
    assert uploads.forget(before=200) == 1
    assert [Path(file.path).exists() for file in (example, old, new)] == [True, False, True]


def test_names_are_kept_and_paths_are_plain(uploads):
    kept = uploads.keep(png(), "../../x y/ü<b>.png")
    assert uploads.check(kept.path).parent.parent == uploads.folder
    assert kept.name == "../../x y/ü<b>.png"


def test_kinds_by_name():
    assert [kind_of(name) for name in ("a.JPG", "b.mp4", "c.pdf", "d.webp")] == [
        "picture",
        "video",
        "document",
        "picture",
    ]
    with pytest.raises(PageError, match=r"'?page.html'? is neither"):
        kind_of("page.html")


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("2", [2]),
        ("1-3", [1, 2, 3]),
        ("4-", [4, 5]),
        ("3, 1", [3, 1]),
        ("1 - 2; 5", [1, 2, 5]),
        ("1–2，4、5", [1, 2, 4, 5]),
        (" 2 , 2 ", [2]),
    ],
)
def test_pages_as_people_type_them(text, pages):
    assert choose_pages(text, 5) == pages


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("all", "pages_unreadable"),
        ("1-2-3", "pages_unreadable"),
        ("6", "pages_missing"),
        ("0", "pages_missing"),
        ("3-2", "pages_missing"),
        ("-2", "pages_unreadable"),
    ],
)
def test_pages_that_cannot_be_meant(text, key):
    with pytest.raises(PageError) as caught:
        choose_pages(text, 5)
    assert caught.value.key == key


def test_a_long_document_gives_its_first_pages_and_no_more():
    assert len(choose_pages("", 100)) == MAX_PAGES
    with pytest.raises(PageError, match=f"more than {MAX_PAGES}"):
        choose_pages("1-100", 100)


def test_documents_become_pictures_of_their_pages(uploads):
    pytest.importorskip("pypdfium2")
    (uploads.folder / "report.pdf").write_bytes(pdf(3))
    document = uploads.attach(str(uploads.folder / "report.pdf"))
    assert document.kind == "document"
    pages = render_pages(uploads, document, "3, 1")
    assert [page.name for page in pages] == ["report p3.png", "report p1.png"]
    with Image.open(pages[0].path) as last:
        assert max(last.size) == PAGE_PX
    picture = uploads.keep(png(), "a.png")
    names = [file.name for file in expand(uploads, [picture, document], "2")]
    assert names == ["a.png", "report p2.png"]


def test_a_document_that_is_none(uploads):
    pytest.importorskip("pypdfium2")
    (uploads.folder / "broken.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    with pytest.raises(PageError, match=r"broken.pdf is damaged"):
        render_pages(uploads, uploads.attach(str(uploads.folder / "broken.pdf")))
