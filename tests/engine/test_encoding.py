"""Pictures that other threads encode beside the decoder."""

import threading
from typing import Any

import pytest
import torch

from minicpmv import Chat
from minicpmv.engine.encoding import PictureEncoding
from minicpmv.engine.features import FeatureCache
from minicpmv.engine.prompt import Medium

from ..helpers.fake_model import POISON, FakeEncoder, answer
from ..helpers.pictures import picture
from ..helpers.stage import Stage, outcome

GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 6}


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that encode, which do so for every encoder."""
    names: list[str] = []
    encode = PictureEncoding.encode

    def encode_and_tell(self: PictureEncoding, medium: Medium) -> None:
        names.append(threading.current_thread().name)
        encode(self, medium)

    monkeypatch.setattr(PictureEncoding, "encode", encode_and_tell)
    monkeypatch.setattr(PictureEncoding, "runs_beside", lambda self: True)
    return names


def with_pictures(*slices: int) -> tuple[list[int], list[int]]:
    """A prompt that shows one picture, and what the decoder sees of it."""
    shown = [number for slice_ in slices for number in (slice_, slice_ + 1)]
    return [5, *[0] * len(shown), 6], [5, *shown, 6]


def test_several_pictures_are_encoded_beside(beside: list[str]) -> None:
    stage = Stage()
    asked = [with_pictures(10 + number, 30 + number) for number in range(7)]
    generations = [
        stage.submit(prompt, pictures={1: [10 + number, 30 + number]})
        for number, (prompt, _) in enumerate(asked)
    ]
    stage.run()
    for generation, (_, shown) in zip(generations, asked, strict=True):
        assert outcome(generation)[0] == answer(shown, 8)
    assert len(stage.encoder.calls) == 14
    # The last of them may be alone.
    assert all(name.startswith("minicpmv-picture") for name in beside[:10])
    stage.scheduler.close()


def test_one_picture_is_encoded_by_all_threads_together(beside: list[str]) -> None:
    stage = Stage()
    prompt, shown = with_pictures(10)
    generation = stage.submit(prompt, pictures={1: [10]})
    stage.run()
    assert outcome(generation)[0] == answer(shown, 8)
    assert beside == [threading.current_thread().name]


def test_equal_pictures_are_encoded_once(beside: list[str]) -> None:
    stage = Stage()
    generations = []
    for number in (10, 10, 20, 10, 20):
        prompt, _ = with_pictures(number)
        generations.append(stage.submit(prompt, pictures={1: [number]}))
    stage.run()
    wanted = [answer(with_pictures(number)[1], 8) for number in (10, 10, 20, 10, 20)]
    assert [outcome(generation)[0] for generation in generations] == wanted
    assert len(stage.encoder.calls) == 2
    steps = stage.scheduler.stats()["steps"]
    assert (steps["vision"], steps["slices"]) == (2, 2)
    stage.scheduler.close()


def test_a_picture_that_cannot_be_encoded_fails_its_own_request(beside: list[str]) -> None:
    stage = Stage()
    numbers = (10, POISON, 20)
    generations = [
        stage.submit(with_pictures(number)[0], pictures={1: [number]}) for number in numbers
    ]
    stage.run()
    first, bad, last = map(outcome, generations)
    assert "cannot be encoded" in str(bad[1])
    assert first[0] == answer(with_pictures(10)[1], 8)
    assert last[0] == answer(with_pictures(20)[1], 8)
    stage.scheduler.close()


def test_answers_are_those_of_pictures_alone(seeing: Chat, beside: list[str]) -> None:
    images = [picture(300, 400, seed) for seed in range(4)]
    parts = [
        [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]
        for image in images
    ]
    found = seeing.batch([[{"role": "user", "content": each}] for each in parts], **GREEDY)
    assert any(name.startswith("minicpmv-picture") for name in beside)
    seeing.engine.forget()
    alone = [seeing.ask("What is it?", images=[image], **GREEDY) for image in images]
    assert [each.token_ids for each in found] == [each.token_ids for each in alone]


def test_the_decoder_leaves_processors_to_those_beside_it() -> None:
    is_begun, may_end = threading.Event(), threading.Event()

    class Slow(FakeEncoder):
        def encode(self, *arguments: Any) -> torch.Tensor:
            is_begun.set()
            assert may_end.wait(60)
            threads.append(torch.get_num_threads())
            return super().encode(*arguments)

    threads: list[int] = []
    encoder: Any = Slow()
    pictures = PictureEncoding(encoder, FeatureCache(1 << 20), lambda: None)
    medium = Medium(b"key", [0, 1], pixels=(torch.tensor([3]), torch.ones(1, 2)))
    own = torch.get_num_threads()
    pictures.begin(medium)
    is_begun.wait(60)
    with pictures.sharing():
        assert torch.get_num_threads() == max(1, own - 1)
    may_end.set()
    pictures.close()
    assert threads == [1]
    assert torch.get_num_threads() == own
    assert medium.features is not None
    assert medium.pixels is None
