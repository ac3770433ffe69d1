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

from minicpmv import Chat, Constraint
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
    "frequency_penalty": 0.4,
    "presence_penalty": -0.4,
    "logit_bias": {5: 2.0},
    "no_repeat_ngram_size": 2,
    "num_beams": 4,
    "length_penalty": 0.5,
    "early_stopping": True,
    "max_new_tokens": 9,
    "min_new_tokens": 4,
    "max_time": 2.5,
    "stop": ["a", "b"],
    "constraint": Constraint.choice(["a", "b"]),
    "logprobs": 3,
    "prompt_lookup_num_tokens": 6,
}


def test_the_typed_dictionary_has_the_options_of_the_table() -> None:
    others = {"system_prompt", "image_features"}
    assert set(AnswerOptions.__annotations__) == set(OPTIONS) | others


def test_every_option_has_a_flag() -> None:
    """But for another name of one, and what only Python can say or read."""
    without = [option.name for option in OPTIONS.values() if not option.has_flag]
    ends = ["stop_token_ids", "ignore_eos"]
    assert without == [
        "do_sample", "logit_bias", "up_to_context", *ends, "constraint", "logprobs",
    ]  # fmt: skip


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


NUMBERS = [option for option in OPTIONS.values() if option.kind in (bool, int, float)]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_ranges_hold_at_their_ends(option: Option) -> None:
    for end, beyond in ((option.least, -1), (option.most, 1)):
        if end is not None:
            assert option.check(end) == end
            with pytest.raises(ArgumentError, match=r"must be (at least|at most|above)"):
                option.check(end + beyond)
    if option.above is not None:
        with pytest.raises(ArgumentError, match="must be above"):
            option.check(option.above)


@pytest.mark.parametrize(
    ("value", "found"), [("a", ("a",)), (["b", "a", "b"], ("b", "a")), ((), ()), ([], ())]
)
def test_stop_is_one_text_or_several(value: Any, found: Any) -> None:
    assert OPTIONS["stop"].check(value) == found
    assert OPTIONS["stop"].parse("two words") == ("two words",)


@pytest.mark.parametrize("value", ["", [""], 3, [3], {"a"}, b"a", ["a", None]])
def test_what_is_no_text_stops_nothing(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"stop is .*; it must be a text, or a list of texts"):
        OPTIONS["stop"].check(value)


def test_a_bias_is_a_number_for_a_token() -> None:
    assert OPTIONS["logit_bias"].check({np.int64(5): 1, 7.0: -100}) == {5: 1.0, 7: -100.0}
    for value, message in (
        ([5], r"logit_bias is \[5\]; it must be a mapping of token ids to numbers"),
        ({"5": 1}, "a token id of logit_bias is '5'; it must be a whole number"),
        ({-1: 1}, "a token id of logit_bias is -1; it must be at least 0"),
        ({5: 101}, r"logit_bias\[5\] is 101; it must be at most 100"),
        ({5: math.nan}, r"logit_bias\[5\] is nan; it must be a finite number"),
    ):
        with pytest.raises(ArgumentError, match=message):
            OPTIONS["logit_bias"].check(value)
    with pytest.raises(ArgumentError, match="logit_bias names token 1000000; the vocabulary has"):
        planned(logit_bias={10**6: 1})


@pytest.mark.parametrize("name", ["logprobs", "prompt_lookup_num_tokens", "constraint"])
def test_what_beams_cannot_do_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} would have no effect without num_beams=1"):
        planned(sampling=False, num_beams=2, **{name: UNUSUAL[name]})


def planned(**options: Any) -> GenerationPlan:
    return plan_generation(loaded("2.6").processor, None, options)


def accepted(options: dict[str, Any]) -> GenerationPlan | None:
    """The plan, or None where an option is refused."""
    try:
        return planned(**options)
    except ArgumentError:
        return None


def state(plan: GenerationPlan) -> tuple[Any, ...]:
    others = {name: value for name, value in vars(plan).items() if name not in ("config", "stops")}
    return plan.config.to_dict(), others, None if plan.stops is None else plan.stops.args


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
