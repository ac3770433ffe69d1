"""Print: every character lies where the scene says, and what is asked about it is what is there."""

import itertools
import random
import re
import shutil

import numpy as np
import pytest

from minicpmv.scenes import ask, render
from minicpmv.scenes.questions.documents import PRINT_KINDS, QUESTIONS
from minicpmv.scenes.text import fonts, lettering, phrases, words
from minicpmv.scenes.text.documents import KINDS
from minicpmv.scenes.text.lettering import PRINTABLE, Sheet, character_widths, ink_and_paper

CASES = [(kind, split) for kind in KINDS for split in ("train", "test")]


@pytest.fixture(scope="module")
def scenes():
    return [render(seed, split, kind=kind) for kind, split in CASES for seed in range(12)]


def test_a_seed_gives_the_same_print_again(scenes):
    for scene in scenes[::7]:
        again = render(scene.seed, scene.split, kind=scene.kind)
        assert again.image.tobytes() == scene.image.tobytes()
        assert (again.texts, again.fields) == (scene.texts, scene.fields)


def test_every_visible_character_has_a_box_inside_the_picture(scenes):
    for scene in scenes:
        for text in scene.texts:
            assert [glyph.character for glyph in text.glyphs] == list(text.text.replace(" ", ""))
            assert set(text.text) <= {*PRINTABLE, " "}
            for top, left, bottom, right in (text.box, *(glyph.box for glyph in text.glyphs)):
                assert 0 <= top < bottom <= 1
                assert 0 <= left <= right <= 1


def test_nearly_all_scenes_of_print_have_print(scenes):
    assert all(scene.texts for scene in scenes if scene.kind != "word" or not scene.figures)
    assert sum(bool(scene.texts) for scene in scenes) > 0.98 * len(scenes)


@pytest.mark.parametrize("face", fonts.faces("test") + fonts.faces("train"), ids=str)
def test_boxes_lie_on_the_ink(face):
    """Two ways: where the box says a character is, and where its pixels are."""
    sheet = Sheet(60, 500, (255, 255, 255), (0, 0, 0))
    (*glyphs,) = sheet.write("Hxn AV To l1.", face, 30, 10, 40).glyphs
    ink = np.asarray(sheet.image.convert("L")) < 128
    for glyph in glyphs:
        if glyph.character not in "Hxnl1":
            continue
        middle = round((glyph.box[1] + glyph.box[3]) / 2 * 500)
        columns = ink[:, max(0, middle - 9) : middle + 10]
        assert columns.any(), glyph
    assert abs(sum(character_widths(face, 30, "AVATAR To"))
               - fonts.load(face, 30).getlength("AVATAR To")) < 2  # fmt: skip
    first, last = glyphs[0].box[1] * 500, glyphs[-1].box[3] * 500
    columns = np.flatnonzero(ink.any(axis=0))
    assert abs(columns[0] - first) < 6
    assert abs(columns[-1] - last) < 10


def test_ink_stands_out_from_paper():
    rng = random.Random(0)
    darker = 0
    for _ in range(300):
        ink, paper = ink_and_paper(rng)
        contrast = lettering.luminance(paper) - lettering.luminance(ink)
        assert abs(contrast) > lettering.MIN_CONTRAST
        darker += contrast > 0
    assert 0.65 < darker / 300 < 0.92


def test_vocabularies_share_nothing_between_the_splits():
    seen = {
        split: {word.lower() for word in words.words(split)}.union(
            *(
                (word.lower() for word in words.vocabulary(sort, split))
                for sort in ("first name", "last name", "city", "item")
            )
        )
        for split in ("train", "test")
    }
    assert not seen["train"] & seen["test"]
    assert len(seen["train"]) > 1000
    assert len(seen["test"]) > 250


def test_held_out_words_come_from_the_held_out_list():
    rng = random.Random(0)
    for _ in range(300):
        assert lettering.random_word(rng, "test").lower() in words.words("test")


def test_lines_keep_their_length():
    rng = random.Random(0)
    for split, longest in itertools.product(("train", "test"), (8, 24)):
        for _ in range(100):
            assert 2 <= len(phrases.sample_line(rng, split, longest)) <= longest
    for _ in range(50):
        lines = phrases.paragraph(rng, "test", 20, 4)
        assert 1 <= len(lines) <= 4
        assert all(0 < len(line) <= 20 and line == line.strip() for line in lines)


def test_pages_of_the_held_out_split_have_at_most_eight_lines_of_28_characters():
    for seed in range(40):
        scene = render(seed, "test", kind="page")
        assert 2 <= len(scene.texts) <= 8
        assert all(len(text.text) <= 28 for text in scene.texts)


def test_pictures_are_neither_too_large_nor_too_long(scenes):
    for scene in scenes:
        width, height = scene.image.size
        assert width * height <= 9.5 * 224**2, scene
        limit = 2.6 if len(scene.texts) > 1 else 13
        assert max(width / height, height / width) <= limit


def test_readings_are_what_is_printed(scenes):
    for scene in scenes:
        printed = "\n".join(text.text for text in scene.texts)
        for task in ("reading_word", "reading_line", "reading_page"):
            question = ask(scene, task, random.Random(scene.seed))
            if question is not None:
                assert question.answer == printed
                assert question.spelt
        for task in ("reading_part", "document"):
            question = ask(scene, task, random.Random(scene.seed))
            if question is not None:
                assert question.answer in printed
        question = ask(scene, "mention", random.Random(scene.seed))
        if question is not None:
            word = re.search('"(.*)"', question.text)[1].lower()
            parts = [part.strip(".,:;!?\"'()") for part in printed.lower().split()]
            assert (question.answer == "yes") == (word in parts)


def test_receipts_add_up():
    for seed in range(30):
        scene = render(seed, "train", kind="receipt")
        fields = {name: value.lstrip("$") for name, value in scene.fields}
        sums = {name: value for name, value in fields.items() if re.fullmatch(r"\d+\.\d\d", value)}
        cents = {name: round(100 * float(value)) for name, value in sums.items()}
        items = sum(value for name, value in cents.items() if name[0].isupper())
        assert cents["total"] == items + cents.get("tax", 0)
        if "cash" in cents:
            assert cents["cash"] - cents["total"] == cents["change"]


def test_every_kind_and_question_is_asked(scenes):
    asked = {
        task
        for scene in scenes
        for task in QUESTIONS
        if ask(scene, task, random.Random(scene.seed)) is not None
    }
    assert asked == set(QUESTIONS)
    assert set(KINDS) == set(PRINT_KINDS)


def test_a_given_size_is_kept_and_print_too_large_for_it_is_left_out():
    for kind in KINDS:
        for size in ((64, 64), (100, 300), (448, 448)):
            scene = render(3, kind=kind, size=size)
            assert (scene.image.height, scene.image.width) == size


def test_fonts_are_found_in_the_folders_of_the_environment(tmp_path, monkeypatch):
    found = fonts.installed()
    if not found:
        pytest.skip("this machine has none of the typefaces")
    name, path = next(iter(found.items()))
    copy = tmp_path / "deep" / name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    monkeypatch.setenv(fonts.FOLDERS_VARIABLE, str(tmp_path))
    fonts.installed.cache_clear()
    try:
        assert fonts.installed()[name] == str(copy)
    finally:
        fonts.installed.cache_clear()
