"""The table of options: kinds, ranges, effects, and the words of errors."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from minicpmv import Chat
from minicpmv.engine.hf import generate_ids
from minicpmv.engine.options import OPTIONS, AnswerOptions, Option
from minicpmv.engine.plan import GenerationPlan, plan_generation
from minicpmv.errors import ArgumentError

from ..helpers.chats import loaded
from ..helpers.pictures import picture

# A value of each option that is nobody's default, and what it has no effect without.
UNUSUAL = {
    "sampling": False,
    "do_sample": False,
    "seed": 5,
    "temperature": 0.9,
    "top_p": 0.6,
    "top_k": 7,
    "min_p": 0.3,
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "num_beams": 4,
    "length_penalty": 0.5,
    "early_stopping": True,
    "max_new_tokens": 9,
    "min_new_tokens": 4,
    "max_time": 2.5,
}


def test_the_typed_dictionary_has_the_options_of_the_table() -> None:
    others = {"system_prompt", "image_features"}
    assert set(AnswerOptions.__annotations__) == set(OPTIONS) | others


def test_every_option_has_a_flag() -> None:
    assert [option.name for option in OPTIONS.values() if not option.has_flag] == ["do_sample"]


@pytest.mark.parametrize(
    "value", [2, np.float32(2), np.int64(2), np.array(2), Fraction(2), Decimal(2), torch.tensor(2)]
)
@pytest.mark.parametrize("name", ["temperature", "top_k", "no_repeat_ngram_size"])
def test_numbers_of_every_kind_are_numbers(name: str, value: Any) -> None:
    found = OPTIONS[name].check(value)
    assert found == 2
    assert type(found) is OPTIONS[name].kind


@pytest.mark.parametrize("value", ["2", True, None, [2], 2j, 2.5, math.nan, math.inf])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"top_k is .*; it must be a whole number"):
        OPTIONS["top_k"].check(value)


@pytest.mark.parametrize("name", [name for name in OPTIONS if OPTIONS[name].kind is float])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_are_finite(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is .*; it must be a finite number"):
        OPTIONS[name].check(value)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_ranges_hold_at_their_ends(option: Option) -> None:
    for end, beyond in ((option.least, -1), (option.most, 1)):
        if end is not None:
            assert option.check(end) == end
            with pytest.raises(ArgumentError, match=r"must be (at least|at most|above)"):
                option.check(end + beyond)
    if option.above is not None:
        with pytest.raises(ArgumentError, match="must be above"):
            option.check(option.above)


def planned(**options: Any) -> GenerationPlan:
    return plan_generation(loaded("2.6").processor, None, options)


def accepted(options: dict[str, Any]) -> GenerationPlan | None:
    """The plan, or None where an option is refused."""
    try:
        return planned(**options)
    except ArgumentError:
        return None


def state(plan: GenerationPlan) -> tuple[Any, ...]:
    return plan.config.to_dict(), plan.repetition_penalty, plan.seed


@settings(max_examples=300)
@given(st.sets(st.sampled_from(sorted(UNUSUAL)), max_size=5), st.booleans())
def test_every_accepted_option_has_an_effect(names: set[str], samples: bool) -> None:
    options = {name: UNUSUAL[name] for name in names} | {"sampling": samples}
    whole = accepted(options)
    for name in names - {"sampling", "do_sample"} if whole else ():
        without = accepted({key: value for key, value in options.items() if key != name})
        assert without is None or state(without) != state(whole), name


@pytest.mark.parametrize("temperature", [0, 0.0, np.float32(0)])
def test_a_temperature_of_zero_is_another_word_for_no_sampling(temperature: Any) -> None:
    plan = planned(sampling=False, temperature=temperature, num_beams=1)
    assert state(plan) == state(planned(sampling=False, num_beams=1))
    with pytest.raises(ArgumentError, match=r"temperature is .*; it must be above 0"):
        planned(temperature=temperature)


def test_a_seed_needs_sampling() -> None:
    with pytest.raises(ArgumentError, match="seed would have no effect without sampling=True"):
        planned(seed=1, sampling=False)


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({"max_slice_nums": 4}, 0, "max_slice_nums would have no effect without a picture"),
        ({"use_image_id": False}, 0, "use_image_id would have no effect without a picture"),
        ({"num_frames": 3}, 1, "num_frames would have no effect without a video"),
        ({"max_inp_length": 12}, 1, "max_inp_length is 12; cutting it would lose the end"),
        ({"num_beams": 5000}, 0, "num_beams is 5000; it must be at most 64"),
    ],
)
def test_options_without_effect_or_sense(
    seeing: Chat, options: dict[str, Any], images: int, message: str
) -> None:
    shown = [picture(40, 30)] * images
    for call in (seeing.ask, seeing.stream, seeing.say):
        with pytest.raises(ArgumentError, match=message):
            call("What?", shown, max_new_tokens=2, **options)
    with pytest.raises(ValueError, match=message):
        seeing.batch([("What?", shown)], max_new_tokens=2, **options)


def test_errors_speak_the_language_of_the_place_where_they_are_read() -> None:
    error = ArgumentError("`top_p` would have no effect without `sampling=True` or `num_beams=3`.")
    assert str(error) == "top_p would have no effect without sampling=True or num_beams=3."
    assert error.as_flags() == ("--top-p would have no effect without --sampling or --num-beams 3.")
    assert ArgumentError("Pass `sampling=False`.").as_flags() == "Pass --no-sampling."


def test_the_settings_of_a_file_are_those_that_it_sets(seeing: Chat) -> None:
    stored = GenerationConfig(temperature=0.3, num_beams=1, min_p=0.05)
    plan = plan_generation(seeing.processor, stored, {"sampling": True})
    assert (plan.config.temperature, plan.config.min_p) == (0.3, 0.05)
    inputs, _ = seeing.prepare([[{"role": "user", "content": "Hi"}]], max_new_tokens=1)
    plan = plan_generation(seeing.processor, stored, {"sampling": True, "max_new_tokens": 2})
    assert generate_ids(seeing.model, inputs, plan).shape == (1, 2)
