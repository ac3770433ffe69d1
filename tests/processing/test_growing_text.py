"""Texts that begin alike give the same tokens as each by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.processing.encoding import GrowingText, encode
from minicpmv.processing.quoting import QUOTE_END, QUOTE_START

from ..helpers.conversations import MODELS, processor_of

PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            ["Hi", " there", "\n", "  ", "用户", "<unk><unk><unk>", "=", "2", "▁", "<|im_end|>\n"]
        ),
        st.sampled_from(["</s>", "<image>", "<|im_start|>", "<|eot_id|>", "<s>"]),
        st.sampled_from(["</s>", "<|im_end|>"]).map(lambda tag: QUOTE_START + tag + QUOTE_END),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("model", MODELS)
@given(first=PIECES, second=PIECES, third=PIECES)
def test_a_text_is_encoded_as_if_alone(model, first, second, third):
    tokenizer = processor_of(model).tokenizer
    growing = GrowingText(tokenizer)
    for text in (first, first + second, first + third, first + third + second, second):
        for special in (True, False):
            alone = encode(tokenizer, text, special, "<unk>")
            found = (growing if special else GrowingText(tokenizer))(text, special, "<unk>")
            assert found == alone


def test_what_texts_share_is_encoded_once(monkeypatch):
    tokenizer = processor_of("2.6").tokenizer
    growing = GrowingText(tokenizer)
    shared = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>"
    growing(shared + "assistant\n", False)
    encoded = []
    monkeypatch.setattr(
        "minicpmv.processing.encoding.encode",
        lambda tokenizer, text, *rest: encoded.append(text) or encode(tokenizer, text, *rest),
    )
    assert growing(shared + "assistant\nHello<|im_end|>", False) == encode(
        tokenizer, shared + "assistant\nHello<|im_end|>", False
    )
    assert encoded == ["assistant\nHello<|im_end|>"]
