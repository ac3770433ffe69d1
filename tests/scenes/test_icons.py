"""Icons: outlines, places, damage, and questions about them."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from minicpmv.scenes import render
from minicpmv.scenes.figures.degrade import degrade
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.figures.things import Ground, Layout, Thing, draw, scatter
from minicpmv.scenes.questions.figures import QUESTIONS, caption

from ..helpers.scenes import asked, icon_scene, named_in

WHITE = Ground("white", (255, 255, 255), (255, 255, 255))


def test_a_seed_gives_the_same_icons():
    for seed in range(5):
        first, again = icon_scene(seed), icon_scene(seed)
        assert first.image.tobytes() == again.image.tobytes()
        assert first.figures == again.figures


@pytest.mark.parametrize("name", ICONS)
def test_the_outline_of_an_icon_holds_all_of_its_ink(name):
    thing = Thing(name, "red", (220, 30, 30), (0.5, 0.5), 0.45)
    scene = draw(Layout((200, 200), Ground("pale", (0, 255, 255), (0, 255, 255)), (thing,)), "", 0)
    (figure,) = scene.figures
    ink = np.abs(np.asarray(scene.image).astype(int) - (0, 255, 255)).sum(-1) > 100
    rows, cols = np.nonzero(ink)
    top, left, bottom, right = (part * 200 for part in figure.box)
    found = rows.min(), cols.min(), rows.max() + 1, cols.max() + 1
    assert np.allclose(found, (top, left, bottom, right), atol=5), (found, figure.box)


def test_things_keep_apart_and_inside():
    for seed in range(40):
        scene = icon_scene(seed, "test" if seed % 2 else "train")
        boxes = [figure.box for figure in scene.figures]
        assert boxes
        for i, (top, left, bottom, right) in enumerate(boxes):
            assert 0 <= top < bottom <= 1
            assert 0 <= left < right <= 1
            for other in boxes[:i]:
                assert bottom < other[0] or right < other[1] or top > other[2] or left > other[3]


def test_scattered_places_keep_apart():
    places = scatter(6, (200, 300), random.Random(0), lambda: 0.12)
    assert len(places) == 6
    for i, ((y, x), _) in enumerate(places):
        for (other_y, other_x), _ in places[:i]:
            assert max(abs(y - other_y) * 200, abs(x - other_x) * 300) > 0.24 * 200


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_what_moves_the_pixels_moves_the_boxes(strength):
    """The ink of a lone square is found where the degraded scene says it is."""
    for seed in range(40):
        rng = random.Random(seed)
        place = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)
        square = Thing("square", "black", (0, 0, 0), place, 0.18)
        scene = degrade(draw(Layout((200, 260), WHITE, (square,)), "train", seed), rng, strength)
        (figure,) = scene.figures
        assert scene.image.size == (260, 200)
        pixels = np.asarray(scene.image).mean(-1)
        y, x = figure.centre
        assert pixels[int(y * 200), int(x * 260)] < 90
        top, left, bottom, right = figure.box
        assert 0 <= top < bottom <= 1
        assert 0 <= left < right <= 1
        inside = pixels[int(top * 200) : int(bottom * 200), int(left * 260) : int(right * 260)]
        assert inside.mean() < 130
        if scene.background == "white":  # and nowhere else
            threshold = (pixels.max() + inside.min()) / 2 - 20
            rows, cols = np.nonzero(pixels < threshold)
            assert abs((rows.min() + rows.max()) / 2 / 200 - y) < 0.05
            assert abs((cols.min() + cols.max()) / 2 / 260 - x) < 0.05


def test_degrading_is_determined_by_the_generator_and_keeps_the_texts():
    scene = next(s for s in (render(i, kind="word") for i in range(9)) if s.texts)
    first, again = (degrade(scene, random.Random(3), 0.8) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.texts == again.texts
    assert [text.text for text in first.texts] == [text.text for text in scene.texts]
    for text in first.texts:
        assert "".join(glyph.character for glyph in text.glyphs) == text.text
    with pytest.raises(ValueError, match="expected 0 to 1"):
        degrade(scene, random.Random(0), 2)


def test_degraded_print_stays_where_its_boxes_are():
    """Ink is found in the boxes of characters, and hardly any of it outside."""
    checked = 0
    for seed in range(30):
        scene = render(seed, kind="page")
        degraded = degrade(scene, random.Random(seed), 0.6)
        height, width = degraded.image.height, degraded.image.width
        grey = np.asarray(degraded.image.convert("L")).astype(int)
        inside = np.zeros((height, width), dtype=bool)
        for glyph in (glyph for text in degraded.texts for glyph in text.glyphs):
            top, left, bottom, right = glyph.box
            assert 0 <= top <= bottom <= 1
            assert 0 <= left <= right <= 1
            inside[int(top * height) : int(bottom * height) + 1, int(left * width) :][
                :, : int((right - left) * width) + 2
            ] = True
        paper = np.median(grey)
        contrast = np.abs(grey - paper)
        assert contrast[inside].mean() > 1.5 * contrast[~inside].mean(), seed
        checked += 1
    assert checked == 30


def test_every_task_is_asked_of_icons(scenes):
    for task in QUESTIONS:
        assert len(list(asked(scenes, task))) > 20, task


def test_counts_of_icons_are_the_numbers_drawn(scenes):
    for scene, question in asked(scenes, "counting"):
        names, found = named_in(question.text)
        number = scene.count(*(names[:1] or [None]), *(found[:1] or [None]))
        assert question.answer == str(number), question


def test_yes_and_no_about_icons_are_true_and_as_frequent(scenes):
    answers = Counter()
    for scene, question in asked(scenes, "existence"):
        names, found = named_in(question.text)
        number = scene.count(*(names[:1] or [None]), *(found[:1] or [None]))
        assert (question.answer == "yes") == (number > 0), (question, scene.figures)
        answers[question.answer] += 1
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_nothing_is_said_to_be_absent_whose_colour_is_on_an_icon(scenes):
    for scene, question in asked(scenes, "existence"):
        names, found = named_in(question.text)
        if question.answer == "no" and found and not names:
            for figure in scene.figures:
                assert figure.shape in SHAPES or found[0] not in ICONS[figure.shape].extras


def test_relations_are_those_of_the_middles(scenes):
    words = {
        "left": (1, -1),
        "right": (1, 1),
        "above": (0, -1),
        "higher": (0, -1),
        "up": (0, -1),
        "below": (0, 1),
        "under": (0, 1),
        "lower": (0, 1),
        "down": (0, 1),
    }

    def holds(scene, word, first, second):
        axis, sign = words[word]
        (one,), (other,) = first, second
        return sign * (one.centre[axis] - other.centre[axis]) > 0

    checked = Counter()
    for scene, question in asked(scenes, "relation"):
        spoken = re.findall(rf"\b({'|'.join(words)})\b", question.text)
        names, _ = named_in(question.text)
        if any(scene.count(name) != 1 for name in names):
            continue
        first, second = (scene.find(name) for name in names)
        if question.answer in ("yes", "no"):
            assert (question.answer == "yes") == holds(scene, spoken[0], first, second), question
        elif question.answer.startswith("the "):
            winner, _ = named_in(question.answer)
            loser = second if winner[0] == names[0] else first
            assert holds(scene, spoken[0], scene.find(winner[0]), loser), question
        else:
            assert holds(scene, question.answer.split()[0], first, second), question
        checked[question.answer] += 1
    assert len(checked) >= 6
    assert checked.total() > 60


def test_captions_name_every_icon(scenes):
    for scene in scenes:
        names, _ = named_in(caption(scene))
        assert set(names) == {figure.shape for figure in scene.figures}
