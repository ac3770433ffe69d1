"""Metrics on answers whose score is known by hand, and the evaluation on models whose score is."""

import random
from types import SimpleNamespace

import pytest

from minicpmv.evaluate import metrics, scenes
from minicpmv.scenes import ask, render


def test_answers_are_compared_by_what_they_say():
    assert metrics.is_right("Grey.", "grey")
    assert metrics.is_right("gray", "grey")
    assert metrics.is_right("The circle", "circle")
    assert metrics.is_right("three", "3")
    assert not metrics.is_right("30", "3")
    assert not metrics.is_right("", "no")


def test_edit_distance_of_known_pairs():
    assert metrics.edit_distance("kitten", "sitting") == 3
    assert metrics.edit_distance("", "abc") == 3
    assert metrics.edit_distance("abc", "abc") == 0
    assert metrics.character_error_rate(["abc", "x"], ["abd", "xy"]) == pytest.approx(2 / 5)


def test_wilson_interval_of_known_shares():
    low, high = metrics.wilson_interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert metrics.wilson_interval(0, 5)[0] == pytest.approx(0.0)
    assert metrics.wilson_interval(5, 5)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="6 right of 5"):
        metrics.wilson_interval(6, 5)


class _Oracle:
    """Answers every question of a task rightly, or says the same to all."""

    def __init__(self, always=None, max_slice_nums=9):
        self.always = always
        self.truths = {}
        settings = SimpleNamespace(max_slice_nums=max_slice_nums)
        self.processor = SimpleNamespace(image_processor=settings)

    def batch(self, requests, **options):
        assert options["sampling"] is False
        self.options = options
        return [
            SimpleNamespace(text=self.always or self.truths[prompt, image.tobytes()])
            for prompt, (image,) in requests
        ]


@pytest.mark.parametrize("task", ["colour", "counting", "reading"])
def test_a_model_that_knows_the_truth_scores_all(task):
    asked = scenes.questions(task, "test", 3, 5)
    oracle = _Oracle()
    oracle.truths = {(q.text, scene.image.tobytes()): q.answer for _, scene, q in asked}
    items = scenes.evaluate_task(oracle, task, split="test", seed=3, number=5)
    score = scenes.score(items)
    assert (score.right, score.total, score.share) == (5, 5, 1.0)
    assert score.character_error_rate == (0 if task == "reading" else None)
    assert "100.0%" in scenes.table([score])


def test_a_model_that_always_says_no_is_right_half_the_time():
    items = scenes.evaluate_task(_Oracle("no"), "existence", split="test", seed=0, number=60)
    assert 0.3 < scenes.score(items).share < 0.7


def test_pictures_are_not_cut_and_releases_that_never_cut_are_not_asked_to():
    for max_slice_nums, expected in [(9, 1), (None, None)]:
        model = _Oracle("no", max_slice_nums)
        scenes.evaluate_task(model, "existence", split="test", seed=0, number=1)
        assert model.options.get("max_slice_nums") == expected


def test_questions_are_the_same_on_every_run_and_others_for_another_seed():
    first = [(seed, q) for seed, _, q in scenes.questions("shape", "test", 0, 4)]
    assert first == [(seed, q) for seed, _, q in scenes.questions("shape", "test", 0, 4)]
    assert first != [(seed, q) for seed, _, q in scenes.questions("shape", "test", 1, 4)]
    seed, question = first[0]
    again = ask(render(seed, "test"), "shape", random.Random(f"evaluate:shape:{seed}"))
    assert again == question
