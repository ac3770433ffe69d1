"""`minicpmv chat`: its commands, and what happens when an answer is stopped or fails."""

import json
import re

import pytest
from PIL import Image

from minicpmv.cli.chat import Session, _read_messages

from ..helpers.fake_chat import FakeStream


@pytest.fixture
def talk(run, fake_chat, feed):
    """Run a conversation typed from a file; returns (exit code, stdout, stderr)."""

    def talk_lines(*lines, arguments=()):
        feed("".join(f"{line}\n" for line in lines).encode())
        return run("chat", *arguments)

    return talk_lines


@pytest.fixture
def session(fake_chat):
    """A session as at a terminal."""
    return Session(fake_chat, {}, interactive=True)


def test_answers_are_on_stdout_and_the_history_grows(talk, fake_chat):
    code, out, err = talk("Hello", "", "And now?")
    assert (code, err) == (0, "")
    assert out == "You said 'Hello' with 0 pictures.\nYou said 'And now?' with 0 pictures.\n"
    assert [message["role"] for message in fake_chat.history] == ["user", "assistant"] * 2


def test_files_belong_to_the_first_message(talk, fake_chat, picture):
    _, out, _ = talk("What?", "And?", arguments=[picture, "--top-k", 7])
    assert out.splitlines() == [
        "You said 'What?' with 1 pictures.",
        "You said 'And?' with 0 pictures.",
    ]
    assert fake_chat.calls[1]["options"] == {"top_k": 7}


def test_image_and_video_belong_to_the_next_message(talk, fake_chat, picture, tmp_path):
    spaced = tmp_path / "two words.png"
    Image.new("RGB", (5, 4)).save(spaced)
    code, _, err = talk(
        f'/image {picture} "{spaced}"', f"/video {picture} '{spaced}'", "What?", "And?"
    )
    assert code == 0
    assert "(pictures with the next message: 2)" in err
    assert "(video with the next message: 2 frames)" in err
    first, second = fake_chat.calls
    assert [image.size for image in first["images"]] == [(500, 300), (5, 4)]
    assert [frame.size for frame in first["options"]["videos"][0]] == [(500, 300), (5, 4)]
    assert (second["images"], second["options"]) == ([], {})


def test_set_changes_later_answers(talk, fake_chat):
    settings = ("/set temperature 0.25", "/set sampling off", "/set max-new-tokens 5")
    code, _, err = talk(*settings, "One", "/set sampling", "Two", "/set")
    assert code == 0
    one, two = fake_chat.calls
    assert one["options"] == {"temperature": 0.25, "sampling": False, "max_new_tokens": 5}
    assert two["options"] == {"temperature": 0.25, "max_new_tokens": 5}
    assert "(sampling: default)" in err
    assert "top_k                     default" in err


def test_system_is_set_and_removed(talk, fake_chat):
    talk("/system Answer in one word.", "Hello")
    assert fake_chat.system == "Answer in one word."
    talk("/system", "Hello", arguments=["--system", "At length."])
    assert fake_chat.system is None


def test_clear_forgets_messages_and_waiting_pictures(talk, fake_chat, picture):
    talk("Hello", f"/image {picture}", "/clear", "Again")
    assert len(fake_chat.history) == 2
    assert fake_chat.calls[-1]["images"] == []


def test_triple_quotes_hold_several_lines(talk, fake_chat):
    talk('"""First', " second", 'third"""', '"""one line"""', '"""', "/help", '"""')
    assert [c["prompt"] for c in fake_chat.calls] == ["First\n second\nthird", "one line", "/help"]


def test_bye_ends(talk, fake_chat):
    code, out, _ = talk("/bye", "Never said")
    assert (code, out, fake_chat.calls) == (0, "", [])


def test_help_lists_every_command(talk, session):
    _, out, err = talk("/help")
    assert out == ""
    assert all(f"/{name}" in err for name in session.commands)


def test_save_and_load_keep_pictures_options_and_system(talk, fake_chat, picture, tmp_path):
    path = tmp_path / "talk.json"
    code, _, _ = talk(
        f"/image {picture}",
        "/system Short.",
        "/set seed 4",
        "What?",
        f"/save {path}",
        f"/save {path}",
    )
    assert code == 0
    before = list(fake_chat.history)
    fake_chat.history, fake_chat.system = [], None
    code, _, err = talk(f"/load {path}", "And?")
    assert code == 0
    assert "(loaded 2 messages" in err
    assert fake_chat.system == "Short."
    assert fake_chat.calls[-1]["options"] == {"seed": 4}
    image, text = fake_chat.history[0]["content"]
    assert image["image"].tobytes() == before[0]["content"][0]["image"].tobytes()
    assert text == {"type": "text", "text": "What?"}
    assert fake_chat.history[1] == before[1]


def test_save_does_not_overwrite_other_files(talk, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    code, _, err = talk("Hello", f"/save {notes}")
    assert code == 1
    assert "is not a saved conversation" in err
    assert notes.read_text() == "precious"


def test_a_script_ends_at_its_first_error(talk, fake_chat, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"format": "something else"}))
    for line, message in [
        ("/image", "/image takes a path"),
        ("/image nowhere.png", "nowhere.png"),
        ("/image 'open", "No closing quotation"),
        ("/video film.mp4", "Video 'film.mp4' does not exist"),
        ("/set temprature 1", "Unknown option 'temprature'"),
        ("/set top_k many", "expected a whole number"),
        ("/set sampling perhaps", "expected on or off"),
        ("/load nowhere.json", "nowhere.json"),
        (f"/load {tmp_path / 'other.json'}", "is not a conversation saved by /save"),
        ("/save a b", "takes one path"),
        ('"""never closed', "no closing"),
        ("/what", "Unknown command /what"),
        ("/clear all", "/clear stands alone; 'all' would have no effect"),
        ("/bye now", "/bye stands alone"),
    ]:
        code, out, err = talk(line, "Never said")
        assert (code, out) == (1, ""), line
        assert message in err
    assert fake_chat.calls == []


def test_at_a_terminal_an_error_is_told_and_the_talk_goes_on(session, fake_chat, picture, capsys):
    assert session.handle(f"/image {picture}")
    fake_chat.raises = ValueError("temperature has no effect\nhere.")
    assert session.handle("What?")
    assert capsys.readouterr().err.endswith("error: temperature has no effect here.\n")
    fake_chat.raises = None
    assert session.handle("What?")
    assert len(fake_chat.calls[-1]["images"]) == 1, "the picture still waits for its answer"


def test_a_text_model_takes_no_pictures(session, fake_chat, picture, capsys):
    fake_chat.supports_images = False
    for line in (f"/image {picture}", f"/video {picture.parent}"):
        session.handle(line)
        assert "reads text only" in capsys.readouterr().err
    assert session.handle("What?")
    assert fake_chat.calls[-1]["images"] == []


def test_ctrl_c_stops_the_answer_and_not_the_program(session, fake_chat, picture, capsys):
    closed = []

    def stopped():
        try:
            yield "The sign "
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    fake_chat.say = lambda *_, **__: FakeStream(stopped())
    session.handle(f"/image {picture}")
    assert session.handle("What?")
    captured = capsys.readouterr()
    assert captured.out == "The sign \n"
    assert "(stopped;" in captured.err
    assert closed == [True]
    assert len(session.pictures) == 1


def test_ctrl_c_at_the_prompt_does_not_leave_and_ctrl_d_does(monkeypatch, capsys):
    typed = iter(["Hello", KeyboardInterrupt, "Again", EOFError])

    def type_next(prompt):
        item = next(typed)
        if isinstance(item, str):
            return item
        raise item

    monkeypatch.setattr("builtins.input", type_next)
    assert [text for text, _ in _read_messages(interactive=True)] == ["Hello", "Again"]
    assert "(Ctrl-D or /bye leaves)" in capsys.readouterr().err


def test_pictures_for_a_text_model_are_refused_at_once(run, fake_chat, picture):
    fake_chat.supports_images = False
    code, out, err = run("chat", picture)
    assert (code, out) == (1, "")
    assert "reads text only; it takes no pictures" in err


def test_a_picture_cannot_come_from_stdin(run, fake_chat):
    assert "stdin" in run("chat", "-")[2]


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        '{"format": "minicpmv conversation 1"}',
        '{"format": "minicpmv conversation 1", "messages": [5], "model": "", "system": null}',
        '{"format": "minicpmv conversation 1", "messages": [{"role": "user", "content": '
        '[{"png": "AAAA"}]}], "model": "", "system": null, "options": {}}',
    ],
)
def test_a_damaged_conversation_is_one_line(tmp_path, text):
    from minicpmv.conversation_file import read_conversation

    (tmp_path / "saved.json").write_text(text)
    with pytest.raises(ValueError, match=r"saved\.json' (is not a conversation|holds a damaged)"):
        read_conversation(str(tmp_path / "saved.json"))


def test_the_list_of_options_keeps_names_and_values_apart(talk):
    _, _, err = talk('/set stop " and"', "/set")
    assert '(stop: " and")' in err
    assert "prompt_lookup_num_tokens  default" in err
    assert re.search(r"^no_repeat_ngram_size +default +no sequence", err, re.MULTILINE)


def test_a_byte_order_mark_is_no_text(run, fake_chat, feed):
    feed(b"\xef\xbb\xbfHello\n")
    run("chat")
    assert fake_chat.calls[0]["prompt"] == "Hello"


def test_what_is_typed_is_utf_8(run, fake_chat, feed):
    feed(b"caf\xe9\n")
    code, out, err = run("chat")
    assert (code, out) == (1, "")
    assert err == "minicpmv: error: stdin is not UTF-8 text. Type or pipe it in UTF-8.\n"


@pytest.mark.parametrize("flags", [("--fps", "0"), ("--num-frames", "-1"), ("--fps", "nan")])
def test_options_of_videos_are_checked_before_there_is_one(run, fake_chat, flags):
    code, out, err = run("chat", *flags)
    assert (code, out) == (2, "")
    assert flags[0] in err
