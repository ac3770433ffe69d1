"""Pieces of text join to the text of all tokens, and cost no more the longer it gets."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicpmv import Chat, load
from minicpmv.engine.answer import TokenLogprob
from minicpmv.engine.detokenize import (
    StopTexts,
    TokenTexts,
    _CutAt,
    _Replace,
    _Strip,
    answer_end,
    answer_text,
    stream_text,
)

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


STOPS = st.lists(st.text(alphabet="ab .n't再😀", min_size=1, max_size=4), min_size=1, max_size=3)


def before_first(text: str, stops: list[str]) -> str:
    """The text before the stop text that is complete first, written naively."""
    for end in range(len(text) + 1):
        for start in range(end):
            if text[start:end] in stops:
                return text[:start]
    return text


@pytest.mark.parametrize("compat", [None, "released"])
@pytest.mark.parametrize("name", FOLDERS)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data(), stops=STOPS)
def test_a_stop_text_ends_the_text(
    name: str, compat: Any, stops: list[str], data: st.DataObject
) -> None:
    """At the first one, whole and in pieces; and the token that completes it is known at once."""
    processor = (loaded(name) if compat is None else as_released(name)).processor
    ids = tokens_of(loaded(name), data)
    whole = processor.decode_answer(ids, strip=False)
    for strip in (True, False):
        text = answer_text(ids, processor, strip, stops)
        assert "".join(stream_text(ids, processor, strip, stops)) == text
        if compat is None:
            expected = before_first(whole, stops)
            assert text == (expected.strip() if strip else expected)
    texts = (*processor.release.stop_texts, *stops)
    fed = StopTexts(texts, processor)
    found = [fed.feed(token) for token in ids]
    assert found == sorted(found)
    end = answer_end(ids, processor, stops)
    if True not in found:
        assert not fed.are_in(ids)
        assert (end is None) == (not set(ids) & set(processor.terminator_ids))
        return
    num_tokens = found.index(True) + 1
    assert num_tokens == end
    assert fed.are_in(ids[:num_tokens])
    assert not fed.are_in(ids[: num_tokens - 1])
    # The tokens up to there have the text that all of them have.
    if compat is None:
        assert answer_text(ids[:num_tokens], processor, False, stops) == before_first(
            processor.decode_answer(ids[:num_tokens], strip=False), stops
        )


def test_the_text_of_a_token_alone(chat: Chat) -> None:
    texts = TokenTexts(chat.processor)
    ids = chat.processor.tokenizer("hello there, hello", add_special_tokens=False)["input_ids"]
    assert "".join(map(texts, ids)).strip() == "hello there, hello"
    assert not any(map(texts.part, ids))


@pytest.mark.parametrize("name", [*FOLDERS, "nano"])
def test_parts_of_characters_have_their_bytes(name: str) -> None:
    processor = (load("nano") if name == "nano" else loaded(name)).processor
    texts = TokenTexts(processor)
    text = "a grün 麤 \U0001f98b�"
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = [TokenLogprob(token, texts(token), 0.0, (), texts.part(token)) for token in ids]
    assert any(token.part for token in tokens)
    assert b"".join(token.data for token in tokens).decode().strip() == text


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
    stops = ["nm", "am ", "n"]
    assert through(_CutAt(*stops), pieces) == before_first(text, stops)
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
        stops = StopTexts(["no such text"], processor)
        assert not any(stops.feed(token) for token in ids[:length])
        work.append(decoded[0])
    assert work[1] <= 2.2 * work[0]
    assert work[1] <= 40 * len(ids)
