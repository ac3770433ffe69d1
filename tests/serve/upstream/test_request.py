"""Jobs as requests that a vLLM server reads."""

import base64
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from minicpmv.engine.options import OPTIONS
from minicpmv.serve.errors import ApiError
from minicpmv.serve.jobs import Job
from minicpmv.serve.upstream.request import call_of, data_url, fields_of, structured_outputs

RED = Image.new("RGB", (4, 3), "red")
ALL_OPTIONS = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 3,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.3,
    "max_new_tokens": 9,
    "min_new_tokens": 2,
    "stop": ("a", "b"),
    "stop_token_ids": (4, 5),
    "logit_bias": {7: -1.0},
    "ignore_eos": True,
}

# What vLLM has no field for; the number of frames is told by the frames.
CANNOT = {
    *("no_repeat_ngram_size", "early_stopping", "prompt_lookup_num_tokens", "max_inp_length"),
    *("num_frames", "fps"),
}


def body_of(prompt: Any, options: dict[str, Any] | None = None, kind: Any = "vllm") -> Any:
    return json.loads(call_of(Job("nano", prompt, options or {}), "there", kind).body)


def ask(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    text = {"type": "text", "text": "What?"}
    return [{"role": "user", "content": [*blocks, text]}]


def test_options_have_vllms_names() -> None:
    assert fields_of(ALL_OPTIONS, "vllm", True) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": 3,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "max_tokens": 9,
        "min_tokens": 2,
        "stop": ["a", "b"],
        "stop_token_ids": [4, 5],
        "logit_bias": {"7": -1.0},
        "ignore_eos": True,
    }


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_option_is_said_or_refused_by_name(name: str) -> None:
    """None is dropped in silence."""
    values: dict[str, Any] = {"sampling": False, "do_sample": False, "num_beams": 3}
    values |= {"constraint": SimpleNamespace(kind="json", text=""), "max_time": 5.0}
    values |= {"max_slice_nums": 3, "use_image_id": True}
    options = {name: values.get(name, ALL_OPTIONS.get(name, 1))}
    messages = ask({"type": "image", "image": RED})
    if name in CANNOT:
        with pytest.raises(ApiError, match=f"^{name} has no effect") as caught:
            body_of(messages, options)
        assert (caught.value.status, caught.value.param) == (400, name)
    else:
        is_said = body_of(messages, options) != body_of(messages)
        # The time is kept to here; that the answer may be shorter is nothing to say.
        assert is_said or name in ("max_time", "up_to_context")


def test_the_likeliest_token_is_temperature_0() -> None:
    assert fields_of({"sampling": False}, "vllm", True) == {"temperature": 0}
    assert fields_of({"sampling": True, "temperature": 2.0}, "vllm", True) == {"temperature": 2.0}


def test_beams_are_answers_of_vllm() -> None:
    found = fields_of({"num_beams": 4, "length_penalty": 0.5}, "vllm", True)
    assert found == {"use_beam_search": True, "n": 4, "temperature": 0, "length_penalty": 0.5}
    assert fields_of({"num_beams": 4}, "minicpmv", True) == {"num_beams": 4}
    assert fields_of({"num_beams": 1}, "vllm", True) == {}


def test_logprobs_come_with_ids_in_a_chat() -> None:
    found = fields_of({"logprobs": 3}, "vllm", True)
    assert found == {"logprobs": True, "top_logprobs": 3, "return_token_ids": True}
    found = fields_of({"logprobs": 3}, "minicpmv", True)
    assert found == {"logprobs": True, "top_logprobs": 3, "return_tokens_as_token_ids": True}
    assert fields_of({"logprobs": 3}, "vllm", False) == {"logprobs": 3}


@pytest.mark.parametrize(
    ("kind", "text", "field"),
    [
        ("json", "", {"json_object": True}),
        ("json_schema", '{"type": "object"}', {"json": {"type": "object"}}),
        ("regex", "a+", {"regex": "a+"}),
        ("choice", '["a", "b"]', {"choice": ["a", "b"]}),
        ("grammar", "start: A", {"grammar": "start: A"}),
    ],
)
def test_constraints_are_structured_outputs(kind: str, text: str, field: dict[str, Any]) -> None:
    constraint: Any = SimpleNamespace(kind=kind, text=text)
    assert structured_outputs(constraint) == field


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
def test_pictures_keep_their_pixels(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    url = data_url(image)
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as found:
        assert found.convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_a_picture_in_one_slice() -> None:
    low = {"type": "image", "image": RED, "max_slice_nums": 1}
    body = body_of(ask(low))
    assert body["mm_processor_kwargs"] == {"max_slice_nums": 1}
    assert body["messages"][0]["content"][0]["image_url"]["detail"] == "low"
    # A server of this package looks at each picture's own.
    assert "mm_processor_kwargs" not in body_of(ask(low), kind="minicpmv")
    mixed = ask(low, {"type": "image", "image": RED})
    assert "mm_processor_kwargs" not in body_of(mixed, kind="minicpmv")
    with pytest.raises(ApiError, match="cut in different ways") as caught:
        body_of(mixed)
    assert caught.value.status == 400
    assert body_of(mixed, {"max_slice_nums": 4})["mm_processor_kwargs"] == {"max_slice_nums": 4}


@pytest.mark.parametrize(("number", "slices"), [(3, 2), (17, 1)])
def test_a_video_is_its_frames(number: int, slices: int) -> None:
    body = body_of(ask({"type": "video", "video": [RED] * number}))
    kinds = [part["type"] for part in body["messages"][0]["content"]]
    assert kinds == ["image_url"] * number + ["text"]
    assert body["mm_processor_kwargs"] == {"max_slice_nums": slices, "use_image_id": False}


def test_a_system_prompt_becomes_the_first_message() -> None:
    body = body_of([{"role": "user", "content": "Hi"}], {"system_prompt": "Be brief."})
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
