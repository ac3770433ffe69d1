"""A prompt gives the same answer however small the pieces are in which it is computed."""

from typing import Any

import pytest

from minicpmv import Chat
from minicpmv.engine.limits import EngineLimits

from ..helpers.chats import loaded
from ..helpers.pictures import picture

GREEDY: dict[str, Any] = {"sampling": False, "num_beams": 1, "max_new_tokens": 6}


@pytest.mark.parametrize("piece_tokens", [1, 7, 40])
def test_the_size_of_the_pieces_changes_nothing(piece_tokens: int) -> None:
    """With text between the slices of a picture and the frames of a video."""
    whole = loaded("2.6")
    limits = EngineLimits(piece_tokens=piece_tokens, feature_bytes=0, idle_bytes=0)
    chat = Chat(whole.model, whole.processor, limits=limits)
    shown = {"images": [picture(280, 420)], "videos": [[picture(40, 60), picture(60, 40)]]}
    wanted = whole.ask("What is it?", **shown, **GREEDY)
    # Beside a running answer, a step computes no more than a piece.
    with chat.stream("Hello", **GREEDY | {"max_new_tokens": 400, "min_new_tokens": 400}) as other:
        next(other)
        assert chat.ask("What is it?", **shown, **GREEDY) == wanted
    chat.engine.close()


def test_small_decoders_take_longer_pieces() -> None:
    assert EngineLimits().of_piece() == EngineLimits().of_piece(8_000_000_000) == 256
    assert 256 < EngineLimits().of_piece(40_000_000) < EngineLimits().of_piece(5_000_000) == 1024
    assert EngineLimits(piece_tokens=7).of_piece(5_000_000) == 7
