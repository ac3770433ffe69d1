"""The commands with a real, tiny model: what the other files test with a fake one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv import load
from minicpmv.cli.chat import Session

from ..helpers.clips import numbers_of, write_clip
from ..helpers.fake_chat import FakeChat

CHECKPOINT = Path(__file__).parents[1] / "golden" / "minicpm-v-2_6" / "checkpoint"
MODEL = ["-m", str(CHECKPOINT), "--max-new-tokens", "6"]


def test_streamed_whole_and_python_answers_are_the_same(run, picture):
    streamed = run("ask", "What is this?", picture, *MODEL, "--seed", 3)
    whole = run("ask", "What is this?", picture, *MODEL, "--seed", 3, "--json")
    answer = load(CHECKPOINT).ask("What is this?", [picture], max_new_tokens=6, seed=3)
    assert streamed == (0, f"{answer.text}\n", "")
    report = json.loads(whole[1])
    assert (whole[0], whole[2], report["text"]) == (0, "", answer.text)
    assert report["num_input_tokens"] == answer.num_input_tokens
    assert report["num_output_tokens"] == answer.num_output_tokens
    assert report["finish_reason"] == answer.finish_reason


def test_beams_are_answered_in_one_piece(run):
    options = ["--no-sampling", "--num-beams", 2]
    code, out, err = run("ask", "What is this?", *MODEL, *options)
    assert (code, err) == (0, "")
    assert (
        json.loads(run("ask", "What is this?", *MODEL, *options, "--json")[1])["text"] == out[:-1]
    )


def test_a_text_model_answers_and_sees_nothing(run, picture):
    model = CHECKPOINT.parents[1] / "minicpm-2b" / "ckpt"
    options = ["-m", model, "--max-new-tokens", 6, "--seed", 1]
    answer = load(model).ask("hello", max_new_tokens=6, seed=1)
    assert run("ask", "hello", *options) == (0, f"{answer.text}\n", "")
    code, out, err = run("ask", "What is this?", picture, *options)
    assert (code, out) == (1, "")
    assert "MiniCPM-2B reads text only" in err


def test_an_option_without_effect_is_an_error(run):
    code, out, err = run("ask", "What is this?", *MODEL, "--no-sampling", "--temperature", 0.5)
    assert (code, out) == (2, "")
    assert err.startswith("minicpmv: error: --temperature would have no effect without --sampling.")


def test_a_video_is_shown(run, picture, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        (frames / f"{i}.png").write_bytes(picture.read_bytes())
    tokens = [
        json.loads(run("ask", "What happens?", *arguments, *MODEL, "--json")[1])["num_input_tokens"]
        for arguments in ([], ["--video", frames])
    ]
    num_queries = json.loads((CHECKPOINT / "config.json").read_text())["query_num"]
    assert tokens[1] - tokens[0] >= 3 * num_queries


def test_a_saved_conversation_goes_on_as_if_it_had_not_been_saved(picture, tmp_path, capsys):
    chat = load(CHECKPOINT)
    session = Session(chat, {"max_new_tokens": 4, "seed": 1}, interactive=False)
    path = tmp_path / "talk.json"
    for line in (f"/image {picture}", "What is this?", f"/save {path}", "And now?"):
        session.handle(line)
    first = list(chat.history)
    session.handle("/clear")
    session.handle(f"/load {path}")
    session.handle("And now?")
    assert [m["content"] for m in first[1:]] == [m["content"] for m in chat.history[1:]]


def test_a_saved_video_is_its_frames(tmp_path):
    chat = load(CHECKPOINT)
    session = Session(chat, {"max_new_tokens": 4, "seed": 1}, interactive=False)
    session.video_options = {"fps": 2}
    clip, path = write_clip(tmp_path / "clip.mp4", 20), tmp_path / "talk.json"
    for line in (f"/video {clip}", "What is this?", f"/image {clip}", "And?", f"/save {path}"):
        session.handle(line)
    first = list(chat.history)
    clip.unlink()
    session.handle(f"/load {path}")
    for place in (0, 2):
        video = chat.history[place]["content"][0]
        assert video["type"] == first[place]["content"][0]["type"] == "video"
        assert numbers_of(video["video"]) == [0, 5, 10, 15]
    session.handle("And now?")


def test_the_fake_chat_has_the_interface_of_the_real_one():
    real = load(CHECKPOINT)
    for name in ("ask", "stream", "say", "clear", "history", "system", "name", "supports_images"):
        assert hasattr(real, name)
        assert hasattr(FakeChat(), name)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently on Windows")
def test_a_reader_that_leaves_early_sees_no_error():
    command = [sys.executable, "-m", "minicpmv", "ask", "Hello", "-m", CHECKPOINT]
    command += ["--min-new-tokens", "200", "--max-new-tokens", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_set_is_checked_when_it_is_typed_and_told_in_words_that_can_be_typed(run, feed):
    feed(b"/set temperature 0.3\nHello\n")
    code, out, err = run("chat", *MODEL, "--no-sampling")
    assert (code, out) == (1, "")
    assert "temperature would have no effect without /set sampling on" in err
    feed(b"/set sampling on\n/set temperature 0.3\n/set max_slice_nums 2\nHello\n")
    code, out, err = run("chat", *MODEL, "--no-sampling")
    assert code == 0, err
    assert out.strip()
    code, _, err = run("chat", *MODEL, "--no-sampling", "--temperature", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert "--temperature would have no effect without --sampling" in err
