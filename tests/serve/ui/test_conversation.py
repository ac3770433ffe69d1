"""Turns: what they ask for, how answers grow, and what a browser keeps of them."""

import asyncio
import json

import pytest

from minicpmv.serve.ui import conversation
from minicpmv.serve.ui.client import Client, Token
from minicpmv.serve.ui.conversation import Cost, Options, Turn
from minicpmv.serve.ui.words import PageError

from ...helpers.uploads import png

OPTIONS = Options("tiny")


def grown(client, turns, uploads, options=OPTIONS):
    async def read():
        asked = conversation.request(turns, options, uploads)
        async with client:
            return [turn async for turn in conversation.answer(client, asked, turns[-1])]

    return asyncio.run(read())


def test_an_answer_grows_and_ends_with_its_cost(client, server, uploads):
    *growing, last = grown(client, [Turn("What?")], uploads)
    texts = [turn.answer for turn in growing]
    assert texts == sorted(texts, key=len)
    assert all(last.answer.startswith(text) for text in texts)
    assert (last.answer, last.ending) == (" ".join(server.words), "stop")
    assert (last.cost.prompt, last.cost.answer, last.cost.cached) == (100, 11, 40)
    assert 0 <= last.cost.first_s <= last.cost.seconds
    assert "".join(token.text for token in last.tokens) == last.answer


def test_pictures_videos_and_text_of_all_turns_are_asked(uploads):
    picture = uploads.keep(png(), "a.png")
    (uploads.folder / "b.mp4").write_bytes(b"video")
    video = uploads.attach(str(uploads.folder / "b.mp4"))
    turns = [
        Turn("What?", (picture,), "A cat.", ending="stop"),
        Turn("Failed?", ending="error", problem="x"),
        Turn("", (video,)),
    ]
    options = Options("tiny", system=" Be brief. ", slices=4, frames=8)
    asked = conversation.request(turns, options, uploads)
    first, said, last = asked["messages"][1:]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    assert said == {"role": "assistant", "content": "A cat."}
    assert last["content"][0]["video_url"]["url"].startswith("data:video/mp4;base64,")
    assert asked["mm_processor_kwargs"] == {"max_slice_nums": 4, "num_frames": 8}


def test_options_that_would_have_no_effect_are_not_sent(uploads):
    options = Options("tiny", temperature=1.5, seed="3", slices=4, frames=8)
    asked = conversation.request([Turn("What?")], options, uploads)
    assert set(asked) == {"model", "max_tokens", "messages", "logprobs", "top_logprobs"}
    assert asked["messages"] == [{"role": "user", "content": "What?"}]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (Options("tiny", draw="likeliest", seed="3"), {"temperature": 0}),
        (Options("tiny", draw="sampled"), {"temperature": 0.7, "top_p": 0.9}),
        (
            Options("tiny", draw="sampled", temperature=1.0, top_p=1, seed=" 3 "),
            {"temperature": 1.0, "top_p": 1, "seed": 3},
        ),
        (Options("tiny", penalty=1.1), {"repetition_penalty": 1.1}),
    ],
)
def test_options_as_fields(options, fields):
    assert options.fields() == {"model": "tiny", "max_tokens": 512, **fields}


@pytest.mark.parametrize(
    ("turns", "options", "key"),
    [
        ([Turn(" ")], OPTIONS, "nothing_asked"),
        ([Turn("What?")], Options(""), "no_model"),
        ([Turn("What?")], Options("tiny", draw="sampled", seed="x"), "seed_unreadable"),
    ],
)
def test_what_cannot_be_asked(turns, options, key, uploads):
    with pytest.raises(PageError) as caught:
        conversation.request(turns, options, uploads)
    assert caught.value.key == key


def test_a_refusal_and_a_dead_server_end_the_turn(client, server, uploads):
    server.refuses = "Too many pictures."
    (turn,) = grown(client, [Turn("What?")], uploads)
    assert (turn.ending, turn.problem) == ("error", "Too many pictures.")
    (turn,) = grown(Client("http://127.0.0.1:9"), [Turn("What?")], uploads)
    assert "cannot be reached" in turn.problem


def test_an_answer_that_breaks_off_keeps_what_was_said(client, server, uploads):
    server.breaks_after = 3
    turn = grown(client, [Turn("What?")], uploads)[-1]
    assert (turn.answer, turn.ending) == ("I see **two**", "error")


def test_a_stopped_answer_stands_and_is_part_of_the_next_question(uploads):
    turns = conversation.stop_last([Turn("One?", answer="Half", ending="")])
    assert turns[0].ending == "stopped"
    assert conversation.stop_last(turns) == turns
    asked = conversation.request([*turns, Turn("Two?")], OPTIONS, uploads)
    assert [message["content"] for message in asked["messages"]] == ["One?", "Half", "Two?"]


def test_turns_come_back_from_a_browser_as_they_were(uploads):
    turns = [
        Turn(
            "What?",
            (uploads.keep(png(), "a.png"),),
            "A <b>cat</b>.",
            (Token("A", -0.1, (("A", -0.1), ("The", -2.0))),),
            Cost(10, 2, 0, 0.1, 0.2),
            "length",
        ),
        Turn("Again?", answer="No", ending="error", problem="why"),
    ]
    kept = json.loads(json.dumps(conversation.dump(turns)))
    assert conversation.restore(kept, uploads) == turns


def test_probabilities_of_old_answers_are_not_kept():
    tokens = (Token("a", -1.0),) * (conversation.KEPT_TOKENS // 2 + 1)
    kept = conversation.dump([Turn("1", tokens=tokens), Turn("2", tokens=tokens)])
    assert [len(turn["tokens"]) for turn in kept] == [0, len(tokens)]


@pytest.mark.parametrize(
    "kept", [None, "x", 3, [None], [{}], [{"text": "x"}], [{"files": 3}], {"text": "x"}]
)
def test_what_a_browser_makes_up_is_left_out(kept, uploads):
    assert conversation.restore(kept, uploads) == []


def test_files_elsewhere_do_not_come_back(uploads):
    kept = conversation.dump([Turn("fine", ending="stop"), Turn("bad", ending="stop")])
    kept[1]["files"] = [{"path": "/etc/passwd", "name": "a.png", "kind": "picture"}]
    assert [turn.text for turn in conversation.restore(kept, uploads)] == ["fine"]
