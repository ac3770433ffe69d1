"""What each token writes in the middle of a text, for every tokenizer of the family."""

from random import Random

import numpy as np
import pytest

from minicpmv import Chat, Constraint, load
from minicpmv.engine.matching import Vocabulary, vocabulary_of
from minicpmv.engine.spelling import Spelling

from ..helpers.chats import FOLDERS, loaded

PARTS = ["a", "b", " ", "   ", "\n", "\t", '"', "{", "}", "é", "e\u0301", "日本", "😀", "▁", "!",
         ".", "<0x41>", "The", " shape", "0", "\u00a0", "\x00", "\x7f", "<image>", "<SEP>", "</s>",
         "<|im_end|>", "<unk>", "�"]  # fmt: skip


@pytest.fixture(params=[*FOLDERS, "nano"])
def any_chat(request: pytest.FixtureRequest) -> Chat:
    return load("nano") if request.param == "nano" else loaded(request.param)


def test_a_token_writes_its_bytes_after_others(any_chat: Chat) -> None:
    processor = any_chat.processor
    spelling = Spelling(processor.tokenizer)
    before = spelling.ids_of("x")
    text_before = processor.text_of(before)
    for token, spelt in enumerate(spelling.tokens):
        text = processor.text_of([*before, token])
        if spelt:
            assert text == text_before + spelt.decode(errors="replace"), token
        else:
            assert processor.tokenizer.added_tokens_decoder[token].special


def test_every_text_can_be_spelt(any_chat: Chat) -> None:
    processor = any_chat.processor
    spelling = Spelling(processor.tokenizer)
    rng = Random(1)
    before = spelling.ids_of("x")
    for _ in range(200):
        text = "".join(rng.choices(PARTS, k=rng.randint(1, 12)))
        ids = spelling.ids_of(text)
        assert spelling.text_of(ids) == text
        assert processor.text_of([*before, *ids]) == processor.text_of(before) + text


@pytest.mark.parametrize("constraint", [Constraint.regex("(.|\n)+"), Constraint.json()])
def test_allowed_tokens_spell_the_text(any_chat: Chat, constraint: Constraint) -> None:
    """The constraint, the tokens and the reader of the answer speak of the same text."""
    vocabulary = vocabulary_of(any_chat.processor)
    reader = vocabulary.reader(any_chat.processor)
    for seed in range(5):
        ids = _walk(vocabulary, constraint, Random(seed))
        text = vocabulary.spelling.text_of(ids)
        assert reader.text_of(ids) == text
        again = vocabulary.matcher(constraint)
        for token in vocabulary.spelling.ids_of(text.rstrip("�")):
            assert again.num_allowed([token])
            again.append(token)


def _walk(vocabulary: Vocabulary, constraint: Constraint, rng: Random) -> list[int]:
    matcher = vocabulary.matcher(constraint)
    ids: list[int] = []
    while len(ids) < 30 and not matcher.is_complete:
        allowed = np.flatnonzero(matcher.allowed() & ~vocabulary.terminators)
        ids.append(int(rng.choice(allowed)))
        matcher.append(ids[-1])
    return ids


def test_a_vocabulary_without_a_byte_is_refused() -> None:
    class Backend:
        class model:  # noqa: N801
            byte_fallback = True

        def get_vocab(self, with_added_tokens: bool) -> dict[str, int]:
            return {f"<0x{value:02X}>": value for value in range(255)}

    class Tokenizer:
        backend_tokenizer = Backend()
        added_tokens_decoder: dict[int, object] = {}

        def __len__(self) -> int:
            return 255

    with pytest.raises(ValueError, match="a token for each byte; this one has none for 0xFF"):
        Spelling(Tokenizer())
