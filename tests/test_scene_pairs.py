"""Icons, pairs, videos and degraded pictures are what is said of them."""

import random
import re
import zlib
from collections import Counter

import numpy as np
import pytest

from minicpmv.scenes import render
from minicpmv.scenes.examples.draw import EXAMPLE_KINDS, draw_example
from minicpmv.scenes.examples.few_shot import HELD_OUT_SHARE, sample_form
from minicpmv.scenes.figures import icons
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.degrade import degrade
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.figures.things import NAMES, Ground, Layout, Thing, draw, scatter
from minicpmv.scenes.questions import statements
from minicpmv.scenes.questions.figures import QUESTIONS, caption
from minicpmv.scenes.questions.naming import plural
from minicpmv.scenes.questions.statements import lettered, mentions, misprint, statement

WHITE = Ground("white", (255, 255, 255), (255, 255, 255))


def icon_scene(seed, split="train", size=None):
    return icons.paint(random.Random(f"{split}:{seed}"), split, seed, "icons", size)


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


# Questions


@pytest.fixture(scope="module")
def scenes():
    return [icon_scene(seed, "test" if seed % 4 == 0 else "train") for seed in range(60)]


def asked(scenes, task, tries=6):
    for scene in scenes:
        for trial in range(tries):
            question = QUESTIONS[task](scene, random.Random(1000 * scene.seed + trial))
            if question is not None:
                yield scene, question


def named_in(text):
    """Names and colours that stand in a text, in order."""
    forms = {form: name for name in NAMES for form in (plural(name), name)}
    ordered = sorted(forms, key=len, reverse=True)
    names = [forms[m] for m in re.findall(rf"\b({'|'.join(ordered)})\b", text)]
    return names, re.findall(rf"\b({'|'.join(COLOURS)})\b", text)


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


# Several pictures


def test_a_seed_gives_the_same_example():
    for kind in EXAMPLE_KINDS:
        for split in ("train", "test"):
            first, again = draw_example(7, split, kind), draw_example(7, split, kind)
            assert first.turns == again.turns
            for one, other in zip(first.scenes, again.scenes, strict=True):
                assert one.image.tobytes() == other.image.tobytes()
    assert draw_example(3).turns == draw_example(3, "train").turns
    with pytest.raises(ValueError, match="Known: same"):
        draw_example(0, "train", "opera")
    with pytest.raises(ValueError, match="Known: train, test"):
        draw_example(0, "valid")


@pytest.mark.parametrize("kind", EXAMPLE_KINDS)
def test_every_picture_of_an_example_is_shown_once_and_is_one_slice(kind):
    for seed in range(25):
        split = "test" if seed % 2 else "train"
        example = draw_example(seed, split, kind)
        shown = [index for turn in example.turns for index in turn.shown]
        assert shown == list(range(len(example.scenes)))
        assert all(s.image.width * s.image.height <= 224**2 for s in example.scenes)
        assert all(turn.question and turn.answer for turn in example.turns)
        assert example.is_video == (kind == "video")
        is_compared = (kind, split) == ("same", "train")
        tasks = ("same", "same_part", "which") if is_compared else (kind,)
        assert example.turns[-1].task in tasks
        if split == "test" and kind != "few_shot":
            assert len(example.turns) == 1


def test_pictures_said_to_be_the_same_are():
    answers = Counter()
    for seed in range(160):
        example = draw_example(seed, "train", "same")
        first, second = (np.asarray(scene.image).astype(int) for scene in example.scenes)
        if example.turns[0].task != "same":
            continue
        answer = example.turns[0].answer
        if answer in ("yes", "the same"):
            assert first.shape == second.shape
            assert np.abs(first - second).mean() < 12, seed
        else:
            assert first.shape != second.shape or (np.abs(first - second).max(-1) > 60).sum() > 25
        answers[answer in ("yes", "the same")] += 1
    assert answers.total() > 80
    assert 0.38 < answers[True] / answers.total() < 0.62


def test_what_is_said_of_a_thing_on_two_pictures_holds():
    answers = Counter()
    for seed in range(300):
        example = draw_example(seed, "train", "same")
        for turn in example.turns:
            if turn.task == "same":
                continue
            (name,), _ = named_in(turn.question)
            first, second = (scene.find(name) for scene in example.scenes)
            if turn.task == "which":
                assert turn.answer == ("the first" if first else "the second")
                assert not (first and second)
                continue
            if " both pictures show" in turn.question or turn.question.startswith(("Is t", "Do ")):
                truth = len(first) > 0 and len(second) > 0
            if "same colour" in turn.question:
                truth = first[0].colour == second[0].colour
            elif "another colour" in turn.question:
                truth = first[0].colour != second[0].colour
            elif "changed" in turn.question:
                places = np.subtract(first[0].centre, second[0].centre)
                areas = first[0].area, second[0].area
                unmoved = np.abs(places).max() < 0.1 and max(areas) < 1.2 * min(areas)
                alike = unmoved and first[0].colour == second[0].colour
                truth = alike == ("unchanged" in turn.question)
            assert turn.answer == ("yes" if truth else "no"), turn
            answers[turn.answer] += 1
    assert min(answers.values()) > 80


def test_a_pair_said_to_be_the_same_is_asked_nothing_else():
    for seed in range(150):
        example = draw_example(seed, "train", "same")
        said = [turn.answer for turn in example.turns if turn.task == "same"]
        if set(said) & {"yes", "the same"}:
            assert len(example.turns) == 1


def test_the_picture_that_fits_is_the_only_one_that_fits():
    places = Counter()
    for seed in range(150):
        example = draw_example(seed, "train", "which")
        for turn in example.turns:
            number = ("the first", "the second", "the third").index(turn.answer)
            places[number] += 1
            names, found = named_in(turn.question.replace("the first or the second", ""))
            if turn.question.startswith(("Which picture shows a", "Which image contains a")):
                counts = [s.count(names[0], *found[:1]) for s in example.scenes]
                assert counts[number] > 0
                assert sum(map(bool, counts)) == 1
            elif " more " in turn.question:
                counts = [s.count(*names[:1]) for s in example.scenes]
                assert counts[number] == max(counts)
                assert counts.count(max(counts)) == 1
            elif "it say" in turn.question or "written" in turn.question:
                fits = [any(t.text in turn.question for t in s.texts) for s in example.scenes]
                assert fits[number]
    assert 0.35 < places[0] / (places[0] + places[1]) < 0.65


def test_one_thing_is_different():
    seen = Counter()
    for seed in range(80):
        example = draw_example(seed, "train", "difference")
        before, after = example.scenes
        answer = example.turns[0].answer
        names, _ = named_in(answer)
        if "gone" in answer:
            assert before.count(names[0]) == after.count(names[0]) + 1
        elif "new" in answer:
            assert before.count(names[0]) + 1 == after.count(names[0])
        elif "became" in answer:
            assert before.count(names[1]) == 0 < after.count(names[1])
            assert before.count(names[0]) > 0 == after.count(names[0])
        elif "colour" in answer:
            (one,), (other,) = before.find(names[0]), after.find(names[0])
            assert one.colour != other.colour == example.turns[1].answer
        elif "size" in answer:
            (one,), (other,) = before.find(names[0]), after.find(names[0])
            assert max(one.area, other.area) > 1.7 * min(one.area, other.area)
        elif "place" in answer:
            (one,), (other,) = before.find(names[0]), after.find(names[0])
            assert np.abs(np.subtract(one.centre, other.centre)).max() > 0.2
        else:
            assert before.background != after.background
        seen[answer.split()[1] if " of " in answer else answer.split()[-1]] += 1
    assert len(seen) >= 5


def test_solved_examples_are_true_and_in_one_form():
    forms = {"train": set(), "test": set()}
    for seed in range(150):
        split = "test" if seed % 2 else "train"
        example = draw_example(seed, split, "few_shot")
        asked = [turn.task != "" for turn in example.turns]
        first_asked = 1 if split == "train" else len(asked) - 1
        assert asked == [i >= first_asked for i in range(len(asked))]
        told_first = [turn for turn in example.turns if not turn.shown]
        assert not told_first or split == "train"
        shapes_of_answers = set()
        for turn in example.turns:
            answer = turn.answer.lower()
            names, found = named_in(answer.replace("_", " "))
            digits = re.findall(r"\d+", answer)
            if turn.shown and example.scenes[turn.shown[0]].texts:
                text = example.scenes[turn.shown[0]].texts[0].text
                assert text in turn.answer
                assert turn.spelt
                shapes_of_answers.add(turn.answer.replace(text, "T"))
                continue
            if turn.shown:
                scene = example.scenes[turn.shown[0]]
                figure, number = scene.figures[0], len(scene.figures)
                name, colour = figure.shape, figure.colour
            else:  # told in words
                words, colours = named_in(turn.question)
                name, colour = (words or [""])[0], (colours or [""])[0]
                number = int((re.findall(r"\d+", turn.question) or ["0"])[0])
            assert all(told == name for told in names), turn
            assert all(told == colour for told in found), turn
            assert all(int(digit) == number for digit in digits), turn
            assert names or found or digits
            pattern = re.sub(r"\d+", "0", answer)
            for word, sign in {colour: "C", plural(name): "S", name: "S"}.items():
                pattern = pattern.replace(word, sign) if len(word) > 1 else pattern
            pattern = re.sub(r"\b(an|a) ", "a ", pattern)
            if turn.answer.isupper():
                pattern += "!"
            shapes_of_answers.add(pattern)
        assert len(shapes_of_answers) == 1, example.turns
        forms[split] |= shapes_of_answers
    assert len(forms["train"]) > 30


def test_some_forms_are_kept_for_testing():
    probe = {"colour": "red", "thing": "car", "number": "3", "text": "Hi"}
    drawn = {
        split: {
            sample_form(("colour", "thing"), random.Random(seed), split).write(probe)
            for seed in range(400)
        }
        for split in ("train", "test")
    }
    held_out = {text for text in drawn["test"] if zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0}
    assert len(held_out) > 20
    assert not held_out & drawn["train"]


def options_of(question):
    pattern = r"\(?\b([A-D])[.)] ([\w ]+?)(?= \(?[A-D][.)] |\n|$)"
    return dict(re.findall(pattern, question))


def test_videos_show_what_is_said_of_them():
    seen = Counter()
    for seed in range(200):
        example = draw_example(seed, "train", "video")
        assert 4 <= len(example.scenes) <= 8
        for turn in example.turns:
            answer = turn.answer
            options = options_of(turn.question)
            if options:
                assert len(set(options.values())) == len(options) >= 2
                answer = options[turn.answer]
            kind = _check_video(example.scenes, turn.question, answer)
            seen[kind] += 1
    assert all(seen[kind] > 5 for kind in ("move", "appear", "first", "times", "grow", "colour"))


def _check_video(frames, question, answer):
    start = re.split(r"[\n ]\(?A[.)] ", question)[0]
    names, _ = named_in(start)

    def track(name):
        return [frame.find(name)[0] if frame.count(name) else None for frame in frames]

    if answer in ("left", "right", "up", "down"):
        path = np.array([figure.centre for figure in track(names[0])])
        down, across = path[-1] - path[0]
        found = ("down" if down > 0 else "up") if abs(down) > abs(across) else "right"
        assert answer == ("left" if found == "right" and across < 0 else found)
        return "move"
    if answer in ("appear", "disappear"):
        there = [figure is not None for figure in track(names[0])]
        assert there[0] != there[-1] == (answer == "appear")
        return "appear"
    if "How often" in start or "How many times" in start:
        there = [figure is not None for figure in track(names[0])]
        rises = sum(now and not before for before, now in zip([False, *there], there, strict=False))
        assert str(rises) == answer
        return "times"
    if " first" in start and answer.startswith("the "):
        times = {}
        for number, frame in enumerate(frames):
            for figure in frame.figures:
                times.setdefault(figure.shape, number)
        candidates = names or list(times)
        assert min(candidates, key=times.__getitem__) == answer.removeprefix("the ")
        return "first"
    if answer in ("grow", "shrink", "it grows", "it shrinks"):
        figures = track(names[0])
        assert (figures[-1].area > 2 * figures[0].area) == ("grow" in answer)
        return "grow"
    if answer in COLOURS:
        figures = track(names[0])
        early = "first" in start or "beginning" in start
        assert figures[0 if early else -1].colour == answer
        return "colour"
    return "other"


# Statements


def stated(scenes, task, tries=8):
    for scene in scenes:
        for trial in range(tries):
            question = statements.QUESTIONS[task](scene, random.Random(1000 * scene.seed + trial))
            if question is not None:
                yield scene, question


@pytest.mark.parametrize("task", ["colour_statement", "shape_statement", "number_statement"])
def test_a_scene_has_statements_of_both_kinds(scenes, task):
    answers = Counter(question.answer for _, question in stated(scenes, task))
    assert set(answers) == {"yes", "no"}
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_statements_of_colour_and_number_are_true_or_false_as_said(scenes):
    for scene, question in stated(scenes, "colour_statement"):
        names, found = named_in(question.text)
        figures = scene.find(names[0]) if names else scene.figures
        assert (question.answer == "yes") == all(f.colour == found[0] for f in figures), question
    words = ("no", "one", "two", "three", "four", "five", "six", "seven")
    for scene, question in stated(scenes, "number_statement"):
        names, found = named_in(question.text)
        number = scene.count(*(names[:1] or [None]), *(found[:1] or [None]))
        said = re.search(rf"\b(\d|{'|'.join(words)})\b", question.text)[1]
        said = int(said) if said.isdigit() else words.index(said)
        assert (question.answer == "yes") == (said == number), question


def test_sentences_are_true_or_false_as_wanted(scenes):
    told = Counter()
    for scene in scenes:
        for trial in range(10):
            truth = trial % 2 == 0
            sentence = statement(scene, truth, random.Random(1000 * scene.seed + trial))
            if sentence is None:
                continue
            names, found = named_in(sentence)
            if sentence.startswith(("there is a", "the picture shows")):
                holds = scene.count(names[0], *found) > 0
            elif sentence.startswith("there is only one"):
                holds = scene.count(*(names or [None]), *(found or [None])) == 1
            elif re.match(r"there are \d", sentence):
                digit = int(re.search(r"\d", sentence)[0])
                holds = scene.count(*(names or [None]), *(found or [None])) == digit
            elif len(names) == 1 and len(found) == 1 and " is " in sentence:
                holds = scene.find(names[0])[0].colour == found[0]
            else:
                continue
            assert holds == truth, (sentence, scene.figures)
            told[truth] += 1
    assert min(told.values()) > 50


def test_what_is_said_to_be_written_is():
    seen = Counter()
    for seed in range(40):
        scene = render(seed, kind="word" if seed % 2 else "page")
        written = " ".join(text.text for text in scene.texts)
        for trial in range(4):
            question = statements.QUESTIONS["text_statement"](scene, random.Random(trial))
            if question is not None:
                said = re.search(r'"(.*)"', question.text)[1]
                assert (question.answer == "yes") == (said in written), question
                seen[question.answer] += 1
    assert min(seen["yes"], seen["no"]) > 20
    assert all(misprint("Hello 12", random.Random(i)) != "Hello 12" for i in range(50))


def test_only_one_option_is_right(scenes):
    letters = Counter()
    for scene, question in stated(scenes, "choice"):
        options = options_of(question.text)
        assert len(set(options.values())) == len(options) >= 2, question
        answer = options[question.answer]
        letters[question.answer] += 1
        head = re.split(r"[\n ]\(?A[.)] ", question.text)[0]
        names, found = named_in(head)
        if answer.isdigit():
            assert int(answer) == scene.count(*(names[:1] or [None]), *(found[:1] or [None]))
        elif answer in COLOURS:
            assert {figure.colour for figure in scene.find(names[0])} == {answer}
        elif "not in" in head:
            for letter, option in options.items():
                present = scene.count(named_in(option)[0][0]) > 0
                assert present == (letter != question.answer), question
        elif "in the picture?" in head and answer.startswith(("a ", "an ")):
            for letter, option in options.items():
                present = scene.count(named_in(option)[0][0]) > 0
                assert present == (letter == question.answer), question
    assert set(letters) == set("ABCD")


def test_lettered_options_hold_the_answer_once():
    for seed in range(20):
        text, letter = lettered("Which?", "x", ["y", "z", "u", "v"], random.Random(seed))
        assert re.search(rf"{letter}[.)] x", text)
        assert len(re.findall(r"[A-D][.)] ", text)) == 4


def test_a_description_mentions_what_it_names_and_not_what_it_quotes(scenes):
    assert mentions('2 red leaves, an ice cream, a TV and the word "star".') == {
        "leaf",
        "ice cream",
        "television",
    }
    assert mentions("A bike, crosses and a T-shirt") == {"bicycle", "cross", "shirt"}
    assert mentions("Nothing.") == set()
    for scene in scenes:
        assert mentions(caption(scene)) == {figure.shape for figure in scene.figures}
