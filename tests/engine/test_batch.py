"""Many requests: one bad one does not lose the answers to the others."""

from pathlib import Path
from typing import Any

import pytest

from minicpmv import BatchError, Chat
from minicpmv.engine.decoder import Decoder

from ..helpers.chats import loaded
from ..helpers.pictures import picture

GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 5}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_bad_requests_do_not_lose_the_others(seeing: Chat, tmp_path: Path, batch_size: int) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = ["Hello", ("What is it?", [picture(40, 30)]), "Good day to you all"]
    bad: list[Any] = [("What?", [str(tmp_path / "bad.png")]), ("What?", ["nowhere.png"]), "  ", [5]]
    requests = [bad[0], good[0], bad[1], good[1], bad[2], good[2], bad[3]]
    with pytest.raises(BatchError, match=r"4 of 7 requests failed\. .*Request 0: .*bad\.png") as it:
        seeing.batch(requests, batch_size=batch_size, **GREEDY)
    assert set(it.value.errors) == {0, 2, 4, 6}
    assert isinstance(it.value.errors[2], FileNotFoundError)
    wanted = [seeing.ask("Hello", **GREEDY), seeing.ask(*good[1], **GREEDY)]
    assert it.value.answers[1:6:2] == [*wanted, seeing.ask(good[2], **GREEDY)]
    assert it.value.answers[::2] == [None] * 4
    assert len(str(it.value).splitlines()) == 1


def test_a_failure_while_computing_is_of_its_request(
    seeing: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Decoder.forward

    def fail_for_long_ones(self: Decoder, embeds: Any, spans: Any, *rest: Any) -> Any:
        if any(span.start + span.length > 60 for span in spans):
            raise RuntimeError("out of memory")
        return forward(self, embeds, spans, *rest)

    alone = seeing.ask("Hello", **GREEDY)
    monkeypatch.setattr(Decoder, "forward", fail_for_long_ones)
    with pytest.raises(BatchError, match="Request 0: out of memory") as it:
        seeing.batch(["word " * 60, "Hello"], **GREEDY)
    assert it.value.answers == [None, alone]


def test_wrong_options_are_told_before_any_work(
    seeing: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "forward", lambda *args: 1 / 0)
    wrong: list[dict[str, Any]] = [{"tempreature": 1}, {"temperature": -1}, {"max_slice_nums": 3}]
    for options in [*wrong, {"batch_size": 0}, {"batch_size": "2"}]:
        with pytest.raises(ValueError, match=next(iter(options))) as it:
            seeing.batch(["Hello"], **options)
        assert not isinstance(it.value, BatchError)


def test_the_next_request_begins_when_one_has_ended(seeing: Chat) -> None:
    done: list[tuple[int, int]] = []
    requests = ["word " * 30, "Hi", "word " * 31, "Hey"]
    alone = [seeing.ask(request, **GREEDY) for request in requests]
    before = seeing.engine.stats()["requests"]["finished"]
    found = seeing.batch(
        requests, batch_size=2, on_progress=lambda *counts: done.append(counts), **GREEDY
    )
    assert found == alone
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seeing.engine.stats()["requests"]["finished"] == before + 4


def test_beams_are_searched_in_padded_batches_of_like_length(
    seeing: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, beams = [], GREEDY | {"num_beams": 2}
    generate = seeing.model.generate

    def note(**inputs: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return generate(**inputs)

    requests = ["word " * 30, "Hi", "word " * 31, "Hey"]
    alone = [seeing.ask(request, **beams) for request in requests]
    monkeypatch.setattr(seeing.model, "generate", note)
    assert seeing.batch(requests, batch_size=2, **beams) == alone
    assert [rows for rows, _ in shapes] == [2, 2]
    assert shapes[0][1] < 30 < shapes[1][1]


def test_an_option_for_pictures_is_for_those_that_have_some(seeing: Chat) -> None:
    requests: list[Any] = ["Hello", ("What is it?", [picture(700, 300)])]
    found = seeing.batch(requests, batch_size=1, max_slice_nums=1, **GREEDY)
    assert found[1] == seeing.ask(*requests[1], max_slice_nums=1, **GREEDY)
    assert found[0] == seeing.ask("Hello", **GREEDY)
    frames = [picture(40, 30, seed) for seed in range(4)]
    video = [{"role": "user", "content": [{"type": "video", "video": frames}, "What?"]}]
    (fewer,) = seeing.batch([video], num_frames=2, **GREEDY)
    assert fewer.num_input_tokens == seeing.ask(video, num_frames=2, **GREEDY).num_input_tokens


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_positions_stretch_by_the_own_length(num_beams: int, batch_size: int) -> None:
    """Each prompt of a batch fits, or stretches, as it does alone: what pads it does not count."""
    chat = loaded("minicpm-2b-128k")
    trained = chat.model.config.max_position_embeddings
    options: dict[str, Any] = GREEDY | {"num_beams": num_beams}
    requests = ["Hello", "word " * 20, "Good day to you"]
    alone = [chat.ask(request, **options) for request in requests]
    lengths = [answer.num_input_tokens + 5 for answer in alone]
    assert min(lengths) < trained < max(lengths)
    assert chat.batch(requests, batch_size=batch_size, **options) == alone
