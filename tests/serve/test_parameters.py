"""Fields of requests to options of the engine: used, accepted without effect, refused by name."""

from typing import Any

import pytest
from pydantic import ValidationError

from minicpmv.engine.options import OPTIONS, checked
from minicpmv.serve.errors import ApiError
from minicpmv.serve.parameters import generation, media_options, num_answers

from ..helpers.chat_requests import SAMPLED, card, request, settings


def options(fields: dict[str, Any], defaults: Any = None, **changes: Any) -> dict[str, Any]:
    return generation(request(**fields), card(defaults), settings(**changes))


def refused(fields: dict[str, Any], defaults: Any = None, **changes: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        options(fields, defaults, **changes)
    assert caught.value.status == 400
    assert caught.value.param
    assert caught.value.param in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"sampling": False}),
        ({"temperature": 0}, {"sampling": False, "num_beams": 1}),
        ({"temperature": 1e-5, "top_p": 0.9}, {"sampling": False, "num_beams": 1}),
        ({"temperature": 0, "seed": 3, "top_k": 5}, {"sampling": False, "num_beams": 1}),
        ({"seed": 3}, {"sampling": False}),
        ({"top_p": 1, "min_p": 0, "top_k": -1}, {"sampling": False}),
        ({"top_p": 0.5}, {"sampling": True, "top_p": 0.5}),
        ({"temperature": 1}, {"sampling": True, "temperature": 1}),
        ({"temperature": 1, "top_k": -1}, {"sampling": True, "temperature": 1, "top_k": 0}),
        ({"temperature": 1, "top_k": 1}, {"sampling": False}),
        ({"temperature": 1, "top_p": 0}, {"sampling": False}),
        ({"temperature": 1, "seed": 7}, {"sampling": True, "temperature": 1, "seed": 7}),
        ({"max_tokens": 5}, {"sampling": False, "max_new_tokens": 5}),
        ({"max_completion_tokens": 5}, {"sampling": False, "max_new_tokens": 5}),
        (
            {"max_tokens": 5, "max_completion_tokens": 5},
            {"sampling": False, "max_new_tokens": 5},
        ),
        ({"stop": "x"}, {"sampling": False, "stop": ("x",)}),
        ({"stop": ["x", "y"]}, {"sampling": False, "stop": ("x", "y")}),
        ({"stop": []}, {"sampling": False}),
        ({"min_tokens": 2}, {"sampling": False, "min_new_tokens": 2}),
        ({"logit_bias": {"7": -100}}, {"sampling": False, "logit_bias": {7: -100.0}}),
        ({"logprobs": True}, {"sampling": False, "logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"sampling": False, "logprobs": 20}),
        ({"logprobs": False, "top_logprobs": 0}, {"sampling": False}),
        ({"num_beams": 4}, {"sampling": False, "num_beams": 4}),
        ({"use_beam_search": True}, {"sampling": False, "num_beams": 3}),
        (
            {"use_beam_search": True, "num_beams": 4, "length_penalty": 0.5},
            {"sampling": False, "num_beams": 4, "length_penalty": 0.5},
        ),
        ({"length_penalty": 1.0, "early_stopping": False}, {"sampling": False}),
        ({"repetition_penalty": 1.2}, {"sampling": False, "repetition_penalty": 1.2}),
        ({"presence_penalty": 1, "frequency_penalty": -2}, {
            "sampling": False, "presence_penalty": 1, "frequency_penalty": -2,
        }),
    ],
)  # fmt: skip
def test_fields_become_options_that_the_engine_knows(fields: Any, expected: Any) -> None:
    found = options(fields)
    assert found == expected
    checked(found, OPTIONS)


def test_a_model_that_samples_by_itself_goes_on_doing_so() -> None:
    assert options({}, SAMPLED) == {"sampling": True}
    assert options({"seed": 3}, SAMPLED) == {"sampling": True, "seed": 3}
    assert options({"temperature": 0}, SAMPLED) == {"sampling": False, "num_beams": 1}
    assert options({"num_beams": 2}, SAMPLED) == {"sampling": False, "num_beams": 2}


def test_nothing_is_decided_for_a_model_whose_settings_are_unknown() -> None:
    assert options({}, {}) == {}


def test_a_negative_seed_is_a_seed() -> None:
    assert options({"temperature": 1, "seed": -1})["seed"] > 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens"),
        ({"max_tokens": 4096}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 513}, "min_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"num_beams": 2, "logprobs": True}, "logprobs"),
        ({"num_beams": 2, "n": 2}, "n"),
        ({"use_beam_search": True, "num_beams": 1}, "use_beam_search"),
        ({"use_beam_search": False, "num_beams": 2}, "use_beam_search"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"early_stopping": True}, "early_stopping"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"logit_bias": {"yes": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"verbosity": "high"}, "verbosity"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"echo": True}, "echo"),
    ],
)
def test_what_would_have_no_effect_is_refused_by_name(fields: Any, param: str) -> None:
    assert refused(fields).param == param


def test_an_answer_longer_than_the_context_has_its_own_code() -> None:
    error = refused({"max_tokens": 5000})
    assert error.code == "context_length_exceeded"
    assert "5000" in error.message
    assert "4096" in error.message


def test_a_protocol_that_must_name_a_length_may_name_any() -> None:
    found = generation({"max_tokens": 10**6}, card(), settings(max_tokens=100), must_fit=False)
    assert found == {"sampling": False, "max_new_tokens": 100, "up_to_context": True}
    found = generation({"max_tokens": 10**6}, card(), settings(), must_fit=False)
    assert found["max_new_tokens"] == 10**6


def test_the_limit_of_the_server_is_named() -> None:
    assert "--max-tokens" in refused({"max_tokens": 101}, max_tokens=100).message
    assert refused({"min_tokens": 101}, max_tokens=100).param == "min_tokens"
    assert "max_new_tokens" not in options({}, max_tokens=100)


def test_lenient_ignores_what_has_no_effect_and_tells() -> None:
    seen: list[str] = []
    fields = {"store": True, "length_penalty": 2.0, "top_logprobs": 3, "best_of": 4}
    found = generation(request(**fields), card(), settings(lenient=True), ignored=seen.append)
    assert found == {"sampling": False}
    assert sorted(seen) == sorted(fields)


def test_lenient_still_refuses_contradictions() -> None:
    refused({"max_tokens": 4, "max_completion_tokens": 5}, lenient=True)


def test_errors_speak_of_the_field_that_the_client_sent() -> None:
    names = {"max_tokens": "options.num_predict"}
    with pytest.raises(ApiError) as caught:
        generation({"max_tokens": 10**6}, card(), settings(), names=names)
    assert caught.value.param == "options.num_predict"
    assert "options.num_predict" in caught.value.message


def test_the_timeout_of_the_server_ends_answers() -> None:
    assert options({}, timeout=30)["max_time"] == 30.0


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"prompt_cache_key": "k", "prompt_cache_options": {}, "prompt_cache_retention": "24h"},
        {"safety_identifier": "s", "verbosity": "medium", "cache_salt": "c"},
        {"tools": [], "n": None, "temperature": None, "stop": None, "response_format": None},
        {"reasoning_effort": "none", "modalities": ["text"], "chat_template_kwargs": {}},
        {"best_of": 2, "n": 2},
    ],
)
def test_what_clients_send_anyway_is_accepted(fields: Any) -> None:
    assert options(fields) == {"sampling": False}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", "1"), ("temperature", True),
        ("temperature", float("nan")), ("top_p", 1.5), ("top_p", -1), ("top_k", -2), ("top_k", 1.5),
        ("min_p", 2), ("n", 0), ("n", 17), ("n", "2"), ("stop", ""), ("stop", ["a"] * 17),
        ("stop", "x" * 65), ("stop", [1]), ("stop", {}), ("max_tokens", 0), ("max_tokens", -1),
        ("max_tokens", 2**63), ("max_tokens", "5"), ("max_tokens", 5.5), ("seed", 2**63),
        ("seed", 0.5), ("presence_penalty", 3), ("frequency_penalty", -2.5),
        ("repetition_penalty", 0), ("logit_bias", [1]), ("logit_bias", {"1": 101}),
        ("logprobs", 1), ("top_logprobs", 21), ("top_logprobs", -1), ("stream", "yes"),
        ("stream_options", []), ("tools", {}), ("tool_choice", "maybe"), ("num_beams", 0),
        ("num_beams", 65), ("min_tokens", -1), ("stop_token_ids", [-1]), ("ignore_eos", 1),
        ("messages", []), ("messages", "Hi"), ("messages", {}), ("model", 5), ("n", [1]),
        ("mm_processor_kwargs", {"max_slice_nums": 0}), ("mm_processor_kwargs", {"other": 1}),
        ("response_format", {"type": "xml"}), ("audio", {}), ("web_search_options", {}),
        ("prediction", {}), ("functions", []), ("guided_json", {}),
    ],
)  # fmt: skip
def test_values_out_of_range_and_unknown_fields_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        request(**{field: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_n_is_the_number_of_answers() -> None:
    assert num_answers(request(n=3)) == 3
    assert num_answers(request()) == 1


def test_media_options_come_from_both_fields_of_vllm() -> None:
    body = request(
        mm_processor_kwargs={"max_slice_nums": 2, "use_image_id": False},
        media_io_kwargs={"video": {"num_frames": 8}},
    )
    found = media_options(body)
    assert (found.max_slice_nums, found.use_image_id, found.num_frames) == (2, False, 8)
    assert found.fps is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mm_processor_kwargs": {"fps": 1, "num_frames": 2}}, "mm_processor_kwargs.fps"),
        (
            {
                "mm_processor_kwargs": {"num_frames": 2},
                "media_io_kwargs": {"video": {"num_frames": 3}},
            },
            "media_io_kwargs.video.num_frames",
        ),
        ({"media_io_kwargs": {"image": {"mode": "L"}}}, "media_io_kwargs.image"),
    ],
)
def test_media_options_that_contradict_are_refused(fields: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        media_options(request(**fields))
    assert caught.value.param == param


def test_slices_reach_the_engine_only_where_something_is_shown() -> None:
    kwargs = {"mm_processor_kwargs": {"max_slice_nums": 2, "use_image_id": False}}
    assert options(kwargs) == {"sampling": False}
    picture = [{"type": "image_url", "image_url": "data:,"}]
    shown = {"messages": [{"role": "user", "content": picture}]} | kwargs
    assert options(shown) == {"sampling": False, "max_slice_nums": 2, "use_image_id": False}
    video = [{"type": "video_url", "video_url": "data:,"}]
    shown = {"messages": [{"role": "user", "content": video}]} | kwargs
    assert options(shown) == {"sampling": False, "max_slice_nums": 2}
