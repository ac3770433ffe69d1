"""Scenes are the same on every run, and what they say about themselves is what is drawn."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import ImageFont

from minicpmv.scenes import TASKS, ask, caption, patch_labels, questions_of, render
from minicpmv.scenes.figures import colours, shapes
from minicpmv.scenes.figures import plain as figures
from minicpmv.scenes.questions.tasks import place_of
from minicpmv.scenes.text import fonts, labels, words

SEEDS = range(60)


@pytest.fixture(scope="module")
def scenes():
    return [render(seed) for seed in SEEDS]


def test_a_seed_gives_the_same_pixels_and_facts(scenes):
    for scene in scenes[:12]:
        again = render(scene.seed)
        assert again.image.tobytes() == scene.image.tobytes()
        assert (again.figures, again.texts, again.background) == (
            scene.figures,
            scene.texts,
            scene.background,
        )


def test_splits_share_no_picture_no_word_and_no_typeface():
    assert render(1, "train").image.tobytes() != render(1, "test").image.tobytes()
    assert not set(words.words("train")) & set(words.words("test"))
    assert not set(fonts.faces("train")) & set(fonts.faces("test"))


def test_scenes_can_be_drawn_without_any_system_font(monkeypatch):
    monkeypatch.setattr(fonts, "installed", dict)
    fonts.faces.cache_clear()
    fonts.families.cache_clear()
    try:
        for split in ("train", "test"):
            (face,) = fonts.faces(split)
            assert face.path is None
            assert isinstance(fonts.load(face, 20), ImageFont.FreeTypeFont)
            scene = next(s for s in (render(i, split, kind="word") for i in range(9)) if s.texts)
            assert np.asarray(scene.image).std() > 0
        assert fonts.faces("train") != fonts.faces("test")
    finally:
        fonts.faces.cache_clear()
        fonts.families.cache_clear()


def test_the_stated_colour_is_what_fills_a_figure():
    checked = 0
    for seed in SEEDS:
        scene = figures.paint(random.Random(seed), "train", seed, "few", (300, 300))
        for figure in scene.figures:
            if figure.shape in ("ring", "moon"):  # hollow in the middle
                continue
            y, x = (round(300 * part) for part in figure.centre)
            # The median over a small square forgives noise.
            square = np.asarray(scene.image)[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
            nearest = {
                name: min(colours.distance(np.median(square, axis=0), a) for a in anchors)
                for name, anchors in colours.COLOURS.items()
            }
            assert nearest[figure.colour] < 45, (seed, figure.colour, nearest)
            checked += 1
    assert checked > 60


def test_figures_lie_inside_the_picture_and_apart_from_each_other(scenes):
    for scene in scenes:
        boxes = [figure.box for figure in scene.figures] + [text.box for text in scene.texts]
        for i, (top, left, bottom, right) in enumerate(boxes):
            assert 0 <= top < bottom <= 1
            assert 0 <= left < right <= 1
            for other in boxes[:i]:
                apart = bottom < other[0] or right < other[1] or top > other[2] or left > other[3]
                assert apart, scene.seed


def test_counting_answers_count_the_figures(scenes):
    for scene in scenes:
        question = ask(scene, "counting", random.Random(scene.seed))
        if question is None:
            continue
        wanted = [
            name for name in (*shapes.SHAPES,) if name in question.text.replace("crosses", "cross")
        ]
        named = [name for name in colours.COLOURS if f" {name} " in question.text]
        number = scene.count(*(wanted[:1] or [None]), *(named[:1] or [None]))
        if "rectangle" in wanted or len(wanted) < 2:
            assert question.answer == str(number), question


def test_yes_and_no_are_as_frequent_and_true(scenes):
    answers = Counter()
    for scene in scenes:
        present = {(f.shape, f.colour) for f in scene.figures}
        for trial in range(8):
            question = ask(scene, "existence", random.Random(100 * scene.seed + trial))
            if question is None:
                continue
            answers[question.answer] += 1
            named = [
                (shape, colour)
                for shape in shapes.SHAPES
                for colour in colours.COLOURS
                if f" {colour} {shape}" in question.text
            ]
            if named:
                assert (question.answer == "yes") == (named[0] in present), question
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_places_and_relations_are_those_of_the_middles(scenes):
    for scene in scenes:
        for figure in scene.figures:
            y, x = figure.centre
            assert ("top" in place_of(figure)) == (y < 1 / 3)
            assert ("right" in place_of(figure)) == (x >= 2 / 3)
        question = ask(scene, "relation", random.Random(0))
        if question is not None and question.text.endswith("?") and " or " in question.text:
            assert question.answer in question.text


def test_every_scene_has_a_caption_that_names_all_figures(scenes):
    for scene in scenes:
        text = caption(scene)
        assert all(f"{figure.colour} {figure.shape}" in text for figure in scene.figures)
        assert all(f'"{printed.text}"' in text for printed in scene.texts)


def test_questions_are_different_and_of_known_tasks(scenes):
    for scene in scenes:
        asked = questions_of(scene, 6, random.Random(0))
        assert len({question.text for question in asked}) == len(asked)
        assert {question.task for question in asked} <= set(TASKS)


def test_patch_labels_show_every_figure_in_its_place():
    for seed in SEEDS:
        scene = render(seed, kind="few", size=(224, 224))
        found = dict(zip(labels.TARGETS, patch_labels(scene, 16, 16), strict=False))
        assert found["centre"].sum() == len({_patch_of(figure, 16) for figure in scene.figures})
        for figure in scene.figures:
            row, col = _patch_of(figure, 16)
            if figure.shape not in ("ring", "moon", "heart", "triangle"):
                place = row * 16 + col
                assert labels.THING_CLASSES[found["thing"][place]] == figure.shape
                assert labels.COLOUR_CLASSES[found["colour"][place]] == figure.colour


def test_patch_labels_spell_what_is_printed():
    for seed in range(20):
        scene = render(seed, kind="word", size=(224, 224))
        found = dict(zip(labels.TARGETS, patch_labels(scene, 16, 16), strict=False))
        ids = {*found["left glyph"], *found["right glyph"]} - {labels.NO_LABEL}
        seen = {labels.GLYPH_CLASSES[i] for i in ids}
        for text in scene.texts:
            assert len(seen & set(text.text)) > len(set(text.text)) / 2


def test_patch_labels_lead_through_a_line():
    names = [labels.FOLLOWING_CLASSES[i] for i in labels.following("it is  1")]
    assert names == ["t", " i", "s", " 1", "\n"]
    for seed in range(10):
        scene = render(seed, kind="line", size=(224, 224))
        found = patch_labels(scene, 16, 16)
        glyphs = found[list(labels.TARGETS).index("left glyph")]
        after = found[labels.FOLLOWING.start]
        known = (glyphs > 0) & (glyphs != labels.NO_LABEL) & (after != labels.NO_LABEL)
        line = scene.texts[0].text + "\n"
        for glyph, follower in zip(glyphs[known], after[known], strict=True):
            pair = labels.GLYPH_CLASSES[glyph] + labels.FOLLOWING_CLASSES[follower]
            assert pair in line


def _patch_of(figure, side):
    y, x = figure.centre
    return int(y * side), int(x * side)


def test_unknown_names_are_errors_that_list_the_known_ones():
    with pytest.raises(ValueError, match="Known: train, test"):
        render(0, "valid")
    with pytest.raises(ValueError, match="Known: few, many, icons, word"):
        render(0, kind="crowd")
    with pytest.raises(ValueError, match="Known: colour"):
        ask(render(0), "smell", random.Random(0))
