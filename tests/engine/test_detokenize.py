"""Pieces of text join to the text of all tokens, and cost no more the longer it gets."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicpmv import Chat, load
from minicpmv.engine.detokenize import _CutAt, _Replace, _Strip, stream_text

from ..helpers.chats import FOLDERS, loaded

LETTERS = st.text(alphabet=" .?'nmstve\t\u00a0ab", max_size=20)


def tokens_of(chat: Chat, data: st.DataObject) -> list[int]:
    """Text, bytes of no character, special tokens, ids beyond the vocabulary."""
    tokenizer = chat.processor.tokenizer
    vocabulary = range(len(tokenizer))
    byte_ids = [i for i in vocabulary if str(tokenizer.convert_ids_to_tokens(i)).startswith("<0x")]
    written = st.text(alphabet="ab .?!'nstm,再见😀é\n", max_size=12).map(
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    )
    runs = [written, st.lists(st.sampled_from(vocabulary), max_size=6)]
    if byte_ids:
        runs.append(st.lists(st.sampled_from(byte_ids), max_size=9))
    return [token for run in data.draw(st.lists(st.one_of(runs), max_size=8)) for token in run]


@pytest.mark.parametrize("compat", [None, "released"])
@pytest.mark.parametrize("name", FOLDERS)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_pieces_join_to_the_whole(name: str, compat: Any, data: st.DataObject) -> None:
    chat = loaded(name) if compat is None else as_released(name)
    ids = tokens_of(chat, data)
    for strip in (True, False):
        whole = chat.processor.decode_answer(ids, strip=strip)
        assert "".join(stream_text(ids, chat.processor, strip)) == whole


_RELEASED: dict[str, Chat] = {}


def as_released(name: str) -> Chat:
    if name not in _RELEASED:
        _RELEASED[name] = load(FOLDERS[name], device="cpu", compat="released")
    return _RELEASED[name]


def through(stage: Any, pieces: list[str]) -> str:
    return "".join([*map(stage.feed, pieces), stage.finish()])


@given(st.lists(LETTERS, max_size=8))
def test_stages_do_what_they_are_named_for(pieces: list[str]) -> None:
    text = "".join(pieces)
    for found, replacement in ((" n't", "n't"), (" ' ", "'"), (" .", ".")):
        assert through(_Replace(found, replacement), pieces) == text.replace(found, replacement)
    assert through(_CutAt("nm"), pieces) == text.partition("nm")[0]
    assert through(_Strip(), pieces) == text.strip()


def test_the_text_of_a_token_is_shown_once_it_is_known(chat: Chat) -> None:
    ids = chat.processor.tokenizer("hello there", add_special_tokens=False)["input_ids"]
    read: list[int] = []

    def reading() -> Iterator[int]:
        for token in ids:
            read.append(token)
            yield token

    first = next(stream_text(reading(), chat.processor))
    assert len(read) < len(ids)
    assert "hello there".startswith(first)


def test_twice_the_tokens_cost_twice_the_work(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    processor, decoded = chat.processor, [0]
    text_of = processor.text_of

    def count(ids: list[int]) -> str:
        decoded[0] += len(ids)
        return text_of(ids)

    monkeypatch.setattr(processor, "text_of", count, raising=True)
    ids = processor.tokenizer("再见 hello ", add_special_tokens=False)["input_ids"] * 40
    work = []
    for length in (len(ids) // 2, len(ids)):
        decoded[0] = 0
        list(stream_text(ids[:length], processor))
        work.append(decoded[0])
    assert work[1] <= 2.2 * work[0]
    assert work[1] <= 20 * len(ids)
