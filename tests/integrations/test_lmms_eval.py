"""lmms-eval's requests in our words; the whole is run in `tests/suites/evaluation`."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest
from PIL import Image

from minicpmv.integrations import lmms_eval
from minicpmv.integrations.lmms_eval.requests import (
    messages_of,
    options_of,
    user_turn,
    without_effect,
)

GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 1024, "up_to_context": True}


@pytest.mark.parametrize(
    ("given", "own", "options"),
    [
        ({}, {}, {}),
        (
            {"max_new_tokens": 16, "until": ["\n\n", ""]},
            {},
            {"max_new_tokens": 16, "stop": ["\n\n"]},
        ),
        ({"until": "\n", "top_p": None, "temperature": 0}, {}, {"stop": ["\n"]}),
        ({"until": []}, {}, {}),
        (
            {"temperature": 0.2, "top_p": 0.9, "do_sample": False, "num_beams": 3},
            {},
            {"num_beams": 3},
        ),
        (
            {"temperature": 0.7, "top_p": 0.9},
            {"seed": 4},
            {"sampling": True, "temperature": 0.7, "top_p": 0.9, "seed": 4},
        ),
        ({"do_sample": True, "temperature": 0}, {}, {"sampling": True}),
        (
            {"num_beams": 1, "max_gen_toks": 8},
            {"num_beams": 3},
            {"num_beams": 3, "max_new_tokens": 8},
        ),
        (
            {"image_aspect_ratio": "original", "repetition_penalty": 1.2},
            {},
            {"repetition_penalty": 1.2},
        ),
        ({}, {"seed": 1}, {}),
    ],
)
def test_options(given, own, options):
    assert options_of(given, own) == GREEDY | options


def test_what_means_something_to_others_only_is_told():
    given = {"image_aspect_ratio": "original", "until": [], "do_sample": True, "max_new_tokens": 1}
    assert without_effect(given) == ["image_aspect_ratio"]


def test_pictures_and_videos_stay_in_their_places():
    image = Image.new("RGB", (8, 8))
    messages = [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "First:"},
                {"type": "image", "url": image},
                {"type": "video", "url": "clip.mp4"},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]
    assert messages_of(messages, {"num_frames": 4}) == [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "First:"},
                {"type": "image", "image": image},
                {"type": "video", "video": "clip.mp4", "num_frames": 4},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]


def test_what_tasks_show_without_messages():
    image = Image.new("RGB", (8, 8))
    given = [image, "a.JPG", "b.mkv", {"type": "video", "path": "c.mp4"}, [image, image]]
    blocks = user_turn(given, "What?", {"fps": 1})[0]["content"]
    assert blocks == [
        {"type": "image", "image": image},
        {"type": "image", "image": "a.JPG"},
        {"type": "video", "video": "b.mkv", "fps": 1},
        {"type": "video", "video": "c.mp4", "fps": 1},
        {"type": "video", "video": [image, image]},
        {"type": "text", "text": "What?"},
    ]
    assert user_turn(None, "What?", {})[0]["content"] == [{"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "audio", "url": "a.wav"}, "a block of type 'audio'"),
        ({"type": "image", "url": {"array": [0], "sampling_rate": 1}}, "has sound"),
        ({"type": "video", "url": "a.mp4", "start_time": 1.0}, "has a start_time; cut it"),
        ({"type": "video", "url": {"path": "a.mp4", "video_start": 1}}, "video_start or video_end"),
        ({"type": "image", "url": 5}, "5 is no picture and no video"),
        ({"type": "image", "url": None}, "missing: None"),
    ],
)
def test_what_cannot_be_shown_is_refused(block, message):
    with pytest.raises(ValueError, match=message):
        messages_of([{"role": "user", "content": [block]}], {})


def test_the_entry_point_names_both_classes(monkeypatch):
    registry = types.ModuleType("lmms_eval.models.registry_v2")
    registry.ModelManifest = types.SimpleNamespace
    for name in ("lmms_eval", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    point = EntryPoint("minicpmv", "minicpmv.integrations.lmms_eval:manifest", "lmms_eval.models")
    assert point.load() is lmms_eval.manifest
    found = point.load()()
    assert found.model_id == "minicpmv"
    assert found.chat_class_path == "minicpmv.integrations.lmms_eval.model.MiniCPMV"
    assert found.simple_class_path == "minicpmv.integrations.lmms_eval.model.SimpleMiniCPMV"
