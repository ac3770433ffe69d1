import base64
from pathlib import Path

import numpy as np
import pytest

from minicpmv.media.video import VideoFile
from minicpmv.processing.messages import normalised, question
from minicpmv.processing.quoting import reserved_tags
from minicpmv.processing.templates import keys_read

from ..helpers.pictures import picture


def content_of(content, **settings):
    (message,) = normalised([{"role": "user", "content": content}], **settings)
    return message["content"]


def test_text_stays_text():
    assert content_of("  Hello ") == "  Hello "


def test_a_list_of_anything_becomes_blocks():
    image = picture(4, 4)
    array = np.zeros((4, 4, 3), np.uint8)
    url = "https://example.org/a.png"
    given = [
        image,
        "What?",
        array,
        {"type": "text", "text": "b"},
        {"type": "image", "path": "a.png"},
        {"type": "image", "url": url, "path": None},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "image", "base64": base64.b64encode(b"123").decode()},
        {"type": "image"},
        {"type": "video", "frames": [image]},
    ]
    assert content_of(given) == [
        {"type": "image", "image": image},
        {"type": "text", "text": "What?"},
        {"type": "image", "image": array},
        {"type": "text", "text": "b"},
        {"type": "image", "image": "a.png"},
        {"type": "image", "image": url},
        {"type": "image", "image": url},
        {"type": "image", "image": url},
        {"type": "image", "image": b"123"},
        {"type": "image"},
        {"type": "video", "video": [image]},
    ]


def test_the_messages_given_are_not_changed():
    messages = [{"role": "user", "content": ["<image>", {"type": "text", "text": "<image>"}]}]
    normalised(messages, reserved_tags(["<image>"], keep_markers=False))
    assert messages == [
        {"role": "user", "content": ["<image>", {"type": "text", "text": "<image>"}]}
    ]


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ([], ValueError, "a list of messages"),
        ("Hello", ValueError, "is 'Hello'; expected"),
        (["Hello"], ValueError, "Message 0 is 'Hello'"),
        ([{"role": "bot", "content": "a"}], ValueError, "the role 'bot'"),
        ([{"content": "a"}], ValueError, "the role None"),
        ([{"role": "user", "content": [{"type": "sound"}]}], ValueError, "of type 'sound'"),
        ([{"role": "user", "content": [{"text": "a"}]}], ValueError, "of type None"),
        ([{"role": "user", "content": [{"type": "text"}]}], ValueError, "without text"),
        ([{"role": "user", "content": [3]}], ValueError, "holds int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], ValueError, "without a url"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "a", "path": "b"}]}],
            ValueError,
            "url and path; give one",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "base64": "@"}]}],
            ValueError,
            "damaged base64",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "path": "a", "video": "b"}]}],
            ValueError,
            "of type video with video and path; give one",
        ),
        ([{"role": "user", "content": [{"type": "video_url"}]}], ValueError, "video_url without a"),
    ],
)
def test_other_forms_are_named(messages, error, message):
    with pytest.raises(error, match=message):
        normalised(messages)


def ask(content, **beside):
    return question([{"role": "user", "content": content, **beside}])[0]["content"]


BLUE, RED = picture(4, 4), picture(8, 8)
ONE, TWO = {"type": "image", "image": BLUE}, {"type": "image", "image": RED}
WHAT = {"type": "text", "text": "What?"}
HERE = {"type": "image"}


@pytest.mark.parametrize(
    ("content", "beside", "expected"),
    [
        ("What?", {"images": [BLUE, RED]}, [ONE, TWO, WHAT]),
        ("What?", {"images": (BLUE,)}, [ONE, WHAT]),
        ("What?", {"images": BLUE}, [ONE, WHAT]),
        ("What?", {"image": BLUE}, [ONE, WHAT]),
        (["What?"], {"images": [BLUE]}, [ONE, WHAT]),
        (
            [{"type": "image"}, "What?", {"type": "image"}],
            {"images": [BLUE, RED]},
            [ONE, WHAT, TWO],
        ),
        ([TWO, "What?"], {"images": [BLUE]}, [ONE, TWO, WHAT]),
        ("What?", {"videos": [[BLUE]]}, [{"type": "video", "video": [BLUE]}, WHAT]),
        ("What?", {"video": [BLUE]}, [{"type": "video", "video": [BLUE]}, WHAT]),
        ("What?", {"images": [], "tool_calls": [], "refusal": None, "name": ""}, "What?"),
    ],
)
def test_pictures_beside_the_content_are_shown(content, beside, expected):
    assert ask(content, **beside) == expected


@pytest.mark.parametrize(
    ("content", "beside", "message"),
    [
        ("What?", {"images": [BLUE], "image": BLUE}, "Message 0 has images and image; give one"),
        ("What?", {"images": [None]}, "holds nothing"),
        ("<image> What?", {"images": [BLUE]}, "beside its content and <image> in its text"),
        ([{"type": "image"}, "a"], {"images": [BLUE, RED]}, "1 blocks .* and 2 images beside"),
        ("What?", {"audios": ["a.wav"]}, "'audios': audio input is not supported"),
        ("What?", {"audio": {"id": 1}}, "'audio': audio input is not supported"),
        ("What?", {"name": "Kim"}, "has the key 'name', which has no effect. Known keys: role"),
        ("What?", {"tool_calls": [{"id": 1}]}, "the key 'tool_calls', .* write tool use as text"),
        ("What?", {"text": "Where?"}, "the key 'text', .* text goes into content"),
        ("What?", {"fps": 1}, "the key 'fps'"),
        ("What?", {"max_pixels": 9}, "the key 'max_pixels', .*max_slice_nums"),
        ("What?", {"weight": 0}, "the key 'weight'"),
    ],
)
def test_what_would_vanish_beside_the_content_is_an_error(content, beside, message):
    with pytest.raises(ValueError, match=message):
        ask(content, **beside)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "text", "text": "a", "image": BLUE}, "of type text with the key 'image'"),
        ({"type": "text", "text": "a", "cache_control": {"type": "x"}}, "the key 'cache_control'"),
        (ONE | {"text": "What?"}, "type image with the key 'text', .* text goes into content"),
        (ONE | {"detail": "low"}, "detail 'low', which has no effect; .*max_slice_nums"),
        (ONE | {"max_pixels": 1000}, "the key 'max_pixels', .*max_slice_nums"),
        (ONE | {"resized_height": 8}, "the key 'resized_height'"),
        (ONE | {"images": [BLUE]}, "the key 'images', .* a block of its own"),
        ({"type": "image_url", "image_url": {"url": "a", "detail": "low"}}, "detail 'low'"),
        ({"type": "image_url", "image_url": {"url": "a", "size": 1}}, "the key 'size'"),
        ({"type": "image_url", "image_url": "a", "text": "b"}, "the key 'text'"),
        ({"type": "image_url", "image_url": "a", "fps": 1}, "the key 'fps'"),
        ({"type": "video", "video": [BLUE], "max_frames": 2}, "'max_frames', .* use num_frames"),
        ({"type": "video", "video": [BLUE], "fps": 2}, "type video: fps needs a video file"),
        ({"type": "video", "video": [BLUE], "nframes": 0}, "num_frames is 0"),
        ({"type": "video", "video": 3, "nframes": 2}, "A video is int"),
        ({"type": "video", "fps": 1}, "with fps, but without a video"),
        (
            {"type": "video", "video": VideoFile("a.mp4", num_frames=2), "fps": 1},
            "with fps and a VideoFile that has its own",
        ),
        (
            {"type": "video_url", "video_url": {"url": "a.mp4", "start": 1}},
            "'start', .* beforehand",
        ),
        ({"type": "input_audio", "input_audio": {}}, "audio input is not supported"),
        ({"type": "image"}, "has the block {'type': 'image'}, which holds nothing"),
        ({"type": "image", "image": None}, "which holds nothing"),
        (None, "has the block None, which holds nothing"),
        ([BLUE], "holds list"),
    ],
)
def test_what_would_vanish_in_a_block_is_an_error(block, message):
    with pytest.raises(ValueError, match=message):
        ask([block, "What?"])


def test_settings_of_a_video_take_effect_in_its_block():
    frames = [picture(4, 4) for _ in range(12)]
    (block,) = ask([{"type": "video", "video": frames, "nframes": np.int64(2)}])
    assert block == {"type": "video", "video": [frames[3], frames[9]]}
    for given in (
        {"type": "video", "path": "a.mp4", "num_frames": 2.0},
        {"type": "video_url", "video_url": {"url": "a.mp4", "num_frames": 2}},
        {"type": "video_url", "video_url": "a.mp4", "num_frames": 2},
    ):
        (block,) = ask([given])
        assert (block["video"].source, block["video"].num_frames) == ("a.mp4", 2)
    (block,) = ask([{"type": "video", "path": "a.mp4", "fps": 0.5}])
    assert block["video"].fps == 0.5
    assert ask([ONE | {"detail": "auto"}]) == [ONE]


@pytest.mark.parametrize(
    "content",
    [
        "",
        " \n",
        "\u200b",
        [],
        [""],
        ["  ", "\ufeff"],
        [{"type": "text", "text": "\t"}],
        ["", WHAT | {"text": ""}],
    ],
)
def test_a_blank_question_is_refused(content):
    with pytest.raises(ValueError, match="The last message is empty"):
        ask(content)


@pytest.mark.parametrize("content", [BLUE, 3, Path("a.png"), np.zeros((4, 4, 3)), b"1", 1.5])
def test_content_is_text_or_a_list(content):
    with pytest.raises(ValueError, match="Message 0 has content of type"):
        ask(content)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "value": "Hi"}, WHAT], "Message 0 has the key 'value'"),
        ([{"role": "user"}, {"role": "user", "content": "a"}], "Message 0 has no content"),
        ([{"role": "user", "content": None}], "Message 0 has no content"),
        ([{"from": "human", "value": "Hi"}], "the role None"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a user's"),
    ],
)
def test_turns_under_other_keys_are_errors(messages, message):
    with pytest.raises(ValueError, match=message):
        question(messages)


def test_keys_that_a_template_reads_pass():
    template = (
        "{% for m in messages %}{{ m.name }}{{ m['calls'] }}{{ m.get('id', 0) }}"
        "{% if loop.first %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    )
    keys = keys_read({"default": template, "tool": "{{ m.tool }}"})
    assert keys == {"name", "calls", "get", "id", "tool"}
    message = {"role": "user", "content": "a", "name": "Kim", "id": 3}
    assert question([message], keys) == [message]
    calls = {"role": "assistant", "calls": [1]}
    assert normalised([calls], other_keys=keys) == [calls]
    with pytest.raises(ValueError, match="the key 'text'"):
        question([message | {"text": "b"}], {*keys, "text"})
    with pytest.raises(ValueError, match="The chat template is damaged: line 1"):
        keys_read("{% 'a")


def test_an_open_file_in_the_content_is_a_picture(tmp_path):
    path = tmp_path / "a.png"
    BLUE.save(path)
    with path.open("rb") as file:
        assert ask([file, "What?"]) == [{"type": "image", "image": file}, WHAT]


@pytest.mark.parametrize("content", ["a \ud800", ["a", "\udfff"], [WHAT | {"text": "\ud83d"}]])
def test_half_a_character_is_named(content):
    with pytest.raises(ValueError, match=r"Message 0 has the character '\\ud"):
        ask(content)


@pytest.mark.parametrize("several", [[BLUE, BLUE], [], np.zeros((2, 4, 4, 3), np.uint8)])
def test_a_block_of_several_pictures_is_an_error(several):
    with pytest.raises(ValueError, match=f"that holds {len(several)} pictures"):
        ask([ONE | {"image": several}, "What?"])


def test_a_list_of_one_picture_is_that_picture():
    assert ask([ONE | {"image": [BLUE]}]) == [ONE]
    (block,) = ask([ONE | {"image": np.zeros((1, 4, 5, 3), np.uint8)}])
    assert block["image"].shape == (4, 5, 3)
