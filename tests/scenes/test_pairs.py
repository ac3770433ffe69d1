"""Examples of several pictures: pairs, few shots, videos."""

import random
import re
import zlib
from collections import Counter

import numpy as np
import pytest

from minicpmv.scenes.examples.draw import EXAMPLE_KINDS, draw_example
from minicpmv.scenes.examples.few_shot import HELD_OUT_SHARE, sample_form
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.questions.naming import plural

from ..helpers.scenes import named_in, options_of


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
