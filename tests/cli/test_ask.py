"""`minicpmv ask`: what reaches the model, and what is printed."""

import json
import os
import select

import pytest
import torch
from PIL import Image

from minicpmv.precision import Precision

from ..helpers.clips import clip, numbers_of, write_clip


def test_answer_alone_is_on_stdout(run, fake_chat, picture):
    code, out, err = run("ask", "-m", "nano", "What is this?", picture)
    assert (code, err) == (0, "")
    assert out == "You said 'What is this?' with 1 pictures.\n"
    assert fake_chat.calls[0]["images"][0].size == (500, 300)


def test_an_unnamed_model_is_named_where_a_picture_is_shown(run, fake_chat, picture):
    code, out, err = run("ask", "What is this?", picture)
    assert (code, err.count("\n")) == (0, 1)
    assert out == "You said 'What is this?' with 1 pictures.\n"
    assert "nano" in err
    assert "-m" in err
    assert run("ask", "Hello")[2] == ""


def test_another_dtype_than_the_checkpoints_is_named_on_a_terminal(run, fake_chat, monkeypatch):
    choice = Precision(torch.float32, "stored as bfloat16; an AVX2 processor", torch.bfloat16)
    monkeypatch.setattr(fake_chat, "precision", choice, raising=False)
    assert run("ask", "-m", "nano", "Hello")[2] == ""
    monkeypatch.setattr("minicpmv.cli.options.sys.stderr.isatty", lambda: True, raising=False)
    line = "minicpmv: computing in float32: stored as bfloat16; an AVX2 processor\n"
    assert run("ask", "-m", "nano", "Hello")[2] == line


def test_words_that_are_no_text_are_typed_wrongly(run, fake_chat):
    err = fails(run, os.fsdecode(b"What is \xff?"), code=2)
    assert "is not UTF-8 text" in err


def test_options_not_given_are_not_passed(run, fake_chat):
    run("ask", "Hello")
    assert fake_chat.calls[0]["options"] == {}
    assert set(fake_chat.loaded_with) == {"progress"}
    assert fake_chat.name == "nano"
    assert fake_chat.system is None


def test_every_option_reaches_the_model(run, fake_chat):
    flags = (
        "--no-sampling --temperature 0.3 --top-p 0.9 --top-k 5 --repetition-penalty 1.1"
        " --num-beams 2 --max-new-tokens 7 --min-new-tokens 2 --seed 11"
        " --max-slice-nums 4 --no-use-image-id --max-inp-length 99"
    )
    load_flags = (
        "-m there --device cpu --dtype bfloat16 --device-map auto --quantize int4"
        " --attn-implementation eager --revision main --compat released --system Briefly."
    )
    code, _, _ = run("ask", "Hello", *flags.split(), *load_flags.split())
    assert code == 0
    assert fake_chat.calls[0]["options"] == {
        "sampling": False,
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 5,
        "repetition_penalty": 1.1,
        "num_beams": 2,
        "max_new_tokens": 7,
        "min_new_tokens": 2,
        "seed": 11,
        "max_slice_nums": 4,
        "use_image_id": False,
        "max_inp_length": 99,
    }
    assert fake_chat.name == "there"
    assert fake_chat.system == "Briefly."
    del fake_chat.loaded_with["progress"]
    assert fake_chat.loaded_with == {
        "device": "cpu",
        "dtype": "bfloat16",
        "device_map": "auto",
        "quantize": "int4",
        "attn_implementation": "eager",
        "revision": "main",
        "compat": "released",
    }


def test_json_has_tokens_and_seconds(run, fake_chat, picture):
    code, out, err = run("ask", "-m", "nano", "--json", "What?", picture)
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "text": "You said 'What?' with 1 pictures.",
        "model": "nano",
        "num_input_tokens": 10,
        "num_output_tokens": 4,
        "seconds": 0.5,
        "prompt_seconds": 0.375,
        "decode_seconds": 0.125,
        "tokens_per_second": 8.0,
        "finish_reason": "stop",
    }


def test_piped_text_stands_before_the_prompt(run, fake_chat, feed):
    feed(b"Dear reader,\n")
    run("ask", "Summarise this.")
    assert fake_chat.calls[0]["prompt"] == "Dear reader,\nSummarise this."


def test_piped_text_can_be_the_prompt(run, fake_chat, feed, picture):
    for arguments in ([], ["-"], ["-", picture]):
        feed(b"What is this?\n")
        assert run("ask", *arguments)[0] == 0
    assert {call["prompt"] for call in fake_chat.calls} == {"What is this?"}
    assert len(fake_chat.calls[2]["images"]) == 1


def test_a_pipe_is_read_like_a_file(run, fake_chat, monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe")
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        run("ask", "Then?")
    assert fake_chat.calls[0]["prompt"] == "from a pipe\nThen?"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a pipe cannot be asked")
def test_a_silent_pipe_is_waited_for_aloud(run, fake_chat, monkeypatch):
    monkeypatch.setattr("minicpmv.cli.ask.PATIENCE_S", 0.01)
    reader, writer = os.pipe()
    wait = select.select

    def wait_in_vain(*arguments):
        found = wait(*arguments)
        os.write(writer, b"late")
        os.close(writer)
        return found

    monkeypatch.setattr("minicpmv.cli.ask.select.select", wait_in_vain)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, _, err = run("ask", "Then?")
    assert (code, fake_chat.calls[0]["prompt"]) == (0, "late\nThen?")
    assert err == "minicpmv: waiting for text on stdin (< /dev/null gives none)\n"


def test_dash_is_a_picture_from_stdin(run, fake_chat, feed, picture):
    feed(picture.read_bytes())
    code, _, _ = run("ask", "What?", "-", picture)
    assert code == 0
    assert [image.size for image in fake_chat.calls[0]["images"]] == [(500, 300)] * 2


def test_a_folder_of_frames_is_a_video(run, fake_chat, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(12):
        Image.new("RGB", (20 + i, 20)).save(frames / f"{i}.png")
    (frames / "notes.txt").write_text("not a frame")
    code, _, err = run("ask", "-m", "nano", "What happens?", "--video", frames)
    assert (code, err) == (0, "")
    (video,) = fake_chat.calls[0]["options"]["videos"]
    assert [frame.width for frame in video] == list(range(20, 32)), "2 comes before 10"


@pytest.mark.parametrize(
    ("num_frames", "duration_ms", "kept"),
    [(8, 500, [0, 2, 4, 6]), (8, 100, [0, 2, 4, 6]), (2, 100, [0, 1]), (200, 1000, None)],
)
def test_an_animation_is_a_video(run, fake_chat, tmp_path, num_frames, duration_ms, kept):
    path = tmp_path / "ball.gif"
    frames = [Image.new("L", (8, 8), i) for i in range(num_frames)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration_ms)
    assert run("ask", "What happens?", "--video", path)[0] == 0
    (video,) = fake_chat.calls[0]["options"]["videos"]
    if kept is None:
        assert len(video) == 64
    else:
        assert [frame.getpixel((0, 0))[0] for frame in video] == kept


def fails(run, *arguments, code=1):
    found, out, err = run("ask", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("minicpmv: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("arguments", [[], [""], ["  \n"]])
def test_an_empty_prompt_is_an_error(run, fake_chat, arguments):
    assert "The prompt is empty." in fails(run, *arguments, code=2)


def test_a_picture_in_place_of_the_prompt_is_an_error(run, fake_chat, picture):
    assert "The question comes first" in fails(run, picture, code=2)
    err = fails(run, picture, "What colour is it?", code=2)
    assert f'minicpmv ask "What colour is it?" {picture}' in err


@pytest.mark.parametrize(
    ("named", "kind"),
    [
        ("nowhere.png", "the name of a file"),
        ("clip.MP4", "the name of a file"),
        ("https://example.org/a", "an address"),
        ("data:image/png;base64,AA==", "an address"),
        ("file:///a.png", "an address"),
    ],
)
def test_a_name_in_place_of_the_prompt_is_an_error(run, fake_chat, named, kind):
    err = fails(run, named, "What?", code=2)
    assert f'is {kind}. The question comes first: minicpmv ask "What?" ' in err
    assert f"is {kind}. " in fails(run, named, code=2)


def test_a_folder_or_a_file_without_suffix_before_the_prompt(run, fake_chat, picture):
    err = fails(run, picture.parent, "What happens?", code=2)
    assert 'is a folder. The question comes first: minicpmv ask "What happens?" --video' in err
    bare = picture.rename(picture.with_suffix(""))
    assert "is a file. The question comes first" in fails(run, bare, "What?", code=2)
    assert run("ask", bare)[0] == 0  # a word that is a file's name, too


@pytest.mark.parametrize("prompt", ["What is in nowhere.png", "Describe a.png and b.png"])
def test_a_question_may_end_in_a_name(run, fake_chat, prompt):
    assert run("ask", prompt)[0] == 0


def test_a_missing_file_is_an_error(run, fake_chat):
    assert "nowhere.png" in fails(run, "What?", "nowhere.png")


def test_a_broken_png_is_an_error(run, fake_chat, picture, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:80])
    assert "broken.png" in fails(run, "What?", broken)


def test_a_text_file_named_jpg_is_an_error(run, fake_chat, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("This is no picture.")
    assert "notes.jpg" in fails(run, "What?", path)


def test_a_folder_points_to_video(run, fake_chat, tmp_path):
    assert f"--video {tmp_path}" in fails(run, "What?", tmp_path)


def test_a_video_file_is_shown_in_its_place(run, fake_chat, picture, tmp_path, feed):
    """By its name and by its content; from stdin, too."""
    path, nameless = write_clip(tmp_path / "film.mp4", 30), tmp_path / "nameless"
    nameless.write_bytes(path.read_bytes())
    assert run("ask", "What happens?", picture, path, picture, nameless)[0] == 0
    first, film, last, other = fake_chat.calls[0]["images"]
    assert first.size == last.size == (500, 300)
    assert numbers_of(film) == numbers_of(other) == [0, 10, 20]
    feed(path.read_bytes())
    assert run("ask", "What happens?", "-", "--fps", 2)[0] == 0
    assert numbers_of(fake_chat.calls[1]["images"][0]) == [0, 5, 10, 15, 20, 25]
    assert run("ask", "What happens?", "--video", path, "--num-frames", 2)[0] == 0
    assert numbers_of(fake_chat.calls[2]["options"]["videos"][0]) == [7, 22]


def test_what_is_wrong_with_a_video_is_told_before_the_model_loads(run, fake_chat, tmp_path):
    (tmp_path / "film.mp4").write_bytes(clip(30)[:900])
    for arguments in ([], ["--video"]):
        assert "damaged or unfinished" in fails(run, "What?", *arguments, tmp_path / "film.mp4")
        assert "film.avi' does not exist" in fails(run, "What?", *arguments, "film.avi")
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(6):
        Image.new("RGB", (20 + i, 20)).save(frames / f"{i}.png")
    assert run("ask", "What?", "--video", frames, "--num-frames", 2)[0] == 0
    (video,) = fake_chat.calls[0]["options"]["videos"]
    assert [frame.width for frame in video] == [21, 24]
    assert "--fps would have no effect on pictures" in fails(
        run, "What?", "--video", frames, "--fps", 2, code=2
    )
    assert "--num-frames is 0" in fails(run, "What?", "--video", frames, "--num-frames", 0, code=2)


def test_frames_of_no_video_have_no_effect(run, fake_chat, picture):
    assert "--fps would have no effect without a video" in fails(
        run, "What?", picture, "--fps", 2, code=2
    )
    assert "--num-frames would have no effect" in fails(run, "What?", "--num-frames", 2, code=2)


def test_an_empty_folder_is_no_video(run, fake_chat, tmp_path):
    assert "holds no pictures" in fails(run, "What?", "--video", tmp_path)


def test_one_picture_is_no_video(run, fake_chat, picture):
    assert "single picture" in fails(run, "What?", "--video", picture)


def test_stdin_cannot_be_two_things(run, fake_chat, feed, picture):
    feed(picture.read_bytes())
    assert "only once" in fails(run, "What?", "-", "-", code=2)
    assert "only once" in fails(run, "-", "-", code=2)


def test_piped_bytes_that_are_no_text_point_to_dash(run, fake_chat, feed, picture):
    feed(picture.read_bytes())
    assert "add the file -" in fails(run, "What?")
