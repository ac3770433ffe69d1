"""Statements about scenes, true and false."""

import random
import re
from collections import Counter

import pytest

from minicpmv.scenes import render
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.questions import statements
from minicpmv.scenes.questions.figures import caption
from minicpmv.scenes.questions.statements import lettered, mentions, misprint, statement

from ..helpers.scenes import named_in, options_of

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
