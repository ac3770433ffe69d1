"""A conversation keeps what was shown, one turn at a time, and can be saved."""

import gc
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpmv import Chat, Conversation

from ..helpers.chats import loaded
from ..helpers.clips import write_clip
from ..helpers.pictures import picture

GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 5}


@pytest.fixture
def chat() -> Chat:
    chat = loaded("2.6")
    chat.clear()
    chat.system = None
    return chat


def pixels_shown(conversation: Conversation) -> list[bytes]:
    content = conversation.history[0]["content"]
    return [block["image"].tobytes() for block in content if block["type"] == "image"]


def test_what_was_shown_stays(chat: Chat, tmp_path: Path) -> None:
    """A file overwritten, an upload read once, an image and an array changed in place."""
    image, array = picture(40, 30, 1), np.array(picture(40, 30, 2))
    path, upload = tmp_path / "shown.png", io.BytesIO()
    picture(40, 30, 3).save(path)
    picture(40, 30, 4).save(upload, "PNG")
    upload.seek(0)
    conversation = chat.conversation()
    "".join(conversation.say("What?", [image, array, str(path), upload], **GREEDY))
    before = pixels_shown(conversation)
    assert len(set(before)) == 4
    image.paste((0, 0, 0), (0, 0, 40, 30))
    array[:] = 0
    path.unlink()
    upload.close()
    "".join(conversation.say("And?", **GREEDY))
    assert pixels_shown(conversation) == before


def test_a_video_is_decoded_once(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30)
    conversation = chat.conversation()
    "".join(conversation.say("What happens?", videos=[path], num_frames=3, **GREEDY))
    frames = conversation.history[0]["content"][0]["video"]
    assert [type(frame) for frame in frames] == [Image.Image] * 3
    path.unlink()
    "".join(conversation.say("And then?", **GREEDY))
    with pytest.raises(ValueError, match="num_frames would have no effect without a video"):
        conversation.say("And then?", num_frames=2, **GREEDY)


def test_one_turn_at_a_time(chat: Chat) -> None:
    conversation = chat.conversation()
    first = conversation.say("Count.", **GREEDY)
    for refused in (lambda: conversation.say("And?", **GREEDY), conversation.clear):
        with pytest.raises(ValueError, match="still being read"):
            refused()
    "".join(chat.conversation().say("Others go on.", **GREEDY))
    first.close()
    second = conversation.say("And?", **GREEDY)
    next(second, None)
    with pytest.raises(ValueError, match="still being read"):
        conversation.say("Once more.", **GREEDY)
    del second  # nobody can read it any more
    gc.collect()
    "".join(conversation.say("Once more.", **GREEDY))
    assert [message["role"] for message in conversation.history] == ["user", "assistant"]


def test_conversations_do_not_know_of_each_other(chat: Chat) -> None:
    first, second = chat.conversation(system="Be brief."), Conversation(chat)
    "".join(first.say("One.", **GREEDY))
    "".join(second.say("Two.", **GREEDY))
    assert first.history[0]["content"] == "One."
    assert second.history[0]["content"] == "Two."
    assert chat.history == []
    assert (chat.system, second.system) == (None, None)


def test_the_chats_own_conversation(chat: Chat) -> None:
    "".join(chat.say("One.", **GREEDY))
    assert len(chat.history) == 2
    chat.history = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    "".join(chat.say("Two.", **GREEDY))
    assert len(chat.history) == 4
    chat.system = "Be brief."
    chat.clear()
    assert (chat.history, chat.system) == ([], "Be brief.")


def test_a_saved_conversation_goes_on(chat: Chat, tmp_path: Path) -> None:
    conversation = chat.conversation(system="Be brief.")
    "".join(conversation.say("What is it?", [picture(40, 30)], **GREEDY))
    path = tmp_path / "talk.json"
    conversation.save(path)
    again = Conversation.load(chat, path)
    assert again.system == "Be brief."
    assert pixels_shown(again) == pixels_shown(conversation)
    assert "".join(again.say("Why?", **GREEDY)) == "".join(conversation.say("Why?", **GREEDY))
    conversation.save(path)
    (tmp_path / "letter.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a saved conversation"):
        conversation.save(tmp_path / "letter.json")
    with pytest.raises(ValueError, match="is not a conversation saved"):
        Conversation.load(chat, tmp_path / "letter.json")


def test_the_former_name_of_supports_images(chat: Chat) -> None:
    with pytest.deprecated_call(match="supports_images"):
        assert chat.sees_pictures


def test_a_history_changed_while_an_answer_is_read_is_kept(chat: Chat) -> None:
    conversation = chat.conversation()
    stream = conversation.say("Hello", **GREEDY)
    next(stream)
    added = {"role": "user", "content": "My name is Kim."}
    conversation.history.append(added)
    with pytest.raises(ValueError, match="history was changed while this answer was read"):
        "".join(stream)
    assert conversation.history == [added]
    assert "".join(conversation.say("Hello", **GREEDY))


def test_a_history_is_a_list(chat: Chat) -> None:
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    chat.history = turns  # type: ignore[assignment]
    assert "".join(chat.say("Hello", **GREEDY))
    assert len(chat.history) == 4
    for wrong in (None, "a", {"role": "user"}):
        with pytest.raises(ValueError, match=r"history is .*; expected a list of messages"):
            chat.history = wrong  # type: ignore[assignment]


@pytest.mark.parametrize("system", [5, ["a"], " ", {}])
def test_a_system_prompt_is_text(chat: Chat, system: object) -> None:
    with pytest.raises(ValueError, match="system_prompt"):
        chat.ask("Hello", system_prompt=system, **GREEDY)  # type: ignore[arg-type]
    chat.system = system  # type: ignore[assignment]
    with pytest.raises(ValueError, match="The system prompt"):
        chat.ask("Hello", **GREEDY)


@pytest.mark.parametrize("prompt", [None, 5, {"role": "user", "content": "a"}])
def test_a_prompt_of_another_kind_is_named(chat: Chat, prompt: object) -> None:
    for images in ([], [picture(20, 20)]):
        with pytest.raises(ValueError, match="The prompt is"):
            chat.say(prompt, images, **GREEDY)  # type: ignore[arg-type]
