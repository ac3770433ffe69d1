import inspect
import random
import re
import sys
import threading
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken

from minicpmv.processing import encoding
from minicpmv.processing.encoding import Encoded, encode, stretches
from minicpmv.processing.messages import normalised
from minicpmv.processing.packing import bounds_of
from minicpmv.processing.placeholders import image_placeholder
from minicpmv.processing.quoting import quoted, reserved_tags

PIECES = ["<image>", "</image>", "<unk>", "<ref>", "<|im_end|>", "(<image>./</image>)", "<slice"]
PIECES += ["!", "a", "\n", " ", "  ", "<", "im", "age>", "你", "é", "e\u0301", "12"]


@pytest.fixture(params=range(4))
def texts(request) -> list[str]:
    draw = random.Random(request.param)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(100)]


def test_quoted_tags_become_characters_and_nothing_else_changes(processor, texts):
    tokenizer = processor.tokenizer
    tags = reserved_tags(map(str, tokenizer.added_tokens_encoder), keep_markers=False)
    start, end = (tokenizer.convert_ids_to_tokens(i) for i in (tokenizer.bos_id, tokenizer.eos_id))
    for text in texts:
        (message,) = normalised([{"role": "user", "content": text}], tags)
        quoted = encode(tokenizer, f"{start}{message['content']}{end}", False)
        plain = encode(tokenizer, f"{start}{text}{end}", False)
        if not tags.search(text):
            assert quoted == plain
        expected = f"{start}{text}{end}"
        if processor.release.version == "2.6":
            expected = unicodedata.normalize("NFC", expected)  # as its tokenizer does
        decoded = tokenizer.decode(quoted.ids, clean_up_tokenization_spaces=False)
        if processor.release.version == "omnilmm-12b":  # a space begins every stretch of text
            decoded, expected = decoded.replace(" ", ""), expected.replace(" ", "")
        assert decoded == expected
        reserved = {
            tokenizer.convert_tokens_to_ids(tag) for tag in ("<image>", "</image>", "<unk>")
        }
        assert not reserved & set(quoted.ids)
        starts = [first for first, _ in quoted.offsets]
        assert starts == sorted(starts)


def test_a_mask_finds_a_token_inside_spans_only(processor_2_6):
    tokenizer = processor_2_6.tokenizer
    text = "<unk>a<unk><unk>b"
    encoded = encode(tokenizer, text, False)
    mask = encoded.mask(tokenizer.unk_id, [(6, 16)])
    assert mask.tolist() == [0, 0, 1, 1, 0]
    assert encoded.tokens_before(6) == 2
    assert encoded.cut(2).ids == encoded.ids[:2]


FEW = settings(max_examples=50)


@FEW
@given(st.lists(st.sampled_from([piece for piece in PIECES if piece not in ("<ref>", "!")])))
def test_quoted_text_is_encoded_as_its_characters(processor_2_6, pieces):
    tokenizer, text = processor_2_6.tokenizer, "".join(pieces)
    tags = reserved_tags(map(str, tokenizer.added_tokens_encoder), keep_markers=False)
    plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert encode(tokenizer, quoted(text, tags), False).ids == plain


@FEW
@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(1, 3), st.integers(1, 3))), max_size=4))
def test_the_mask_finds_every_slice_of_the_placeholders(processor_2_6, grids):
    tokenizer, text, spans = processor_2_6.tokenizer, "<unk>", []
    for grid in grids:
        start = len(text)
        text += image_placeholder(grid, 5, tag_every_slice=True)
        spans.append((start, len(text)))
        text += "\n<unk>a"
    mask = encode(tokenizer, text, False).mask(tokenizer.unk_id, spans)
    num_slices = sum(1 + (rows * cols) for rows, cols in (grid or (0, 0) for grid in grids))
    bounds = bounds_of(mask)
    assert bounds.shape == (num_slices, 2)
    assert (np.diff(bounds) == 5).all()


def test_of_a_run_of_placeholders_one_is_encoded(processor, texts, monkeypatch):
    tokenizer, unk = processor.tokenizer, processor.image_processor.unk
    tags = reserved_tags(map(str, tokenizer.added_tokens_encoder), keep_markers=False)
    draw = random.Random(0)
    pieces = [piece.replace("<unk>", unk) for piece in PIECES]
    for text in texts[:40]:
        prompt = f"{quoted(text, tags)}{unk * draw.randint(2, 70)}".join(draw.choices(pieces, k=3))
        for adds in (False, True):
            assert encode(tokenizer, prompt, adds, unk) == encode(tokenizer, prompt, adds)

    lengths = []
    encodes = encoding._encode_piece

    def counted(tokenizer, text, *args, **kwargs):
        lengths.append(len(text))
        return encodes(tokenizer, text, *args, **kwargs)

    monkeypatch.setattr(encoding, "_encode_piece", counted)
    encode(tokenizer, f"a{unk * 500}b{unk * 500}", False, unk)
    assert lengths == [2 + 2 * len(unk)]


def test_a_token_behind_the_text_is_none_of_a_run(new_processor):
    tokenizer = new_processor().tokenizer
    begin, end = "<|im_start|>", "<|im_end|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(tag, tokenizer.convert_tokens_to_ids(tag)) for tag in (begin, end)],
    )
    unk = tokenizer.unk_token
    text = f"a{unk * 2}b{unk * 6}"
    found = encode(tokenizer, text, True, unk)
    assert found == encode(tokenizer, text, True)
    spans = [match.span() for match in re.finditer(unk, text)]
    assert found.mask(tokenizer.unk_token_id, spans[-1:]).tolist() == [0] * 10 + [1, 0]
    assert found.mask(tokenizer.unk_token_id, spans).sum() == 8


@pytest.mark.parametrize("as_characters", [False, True])
def test_a_piece_is_what_transformers_encodes(processor, texts, as_characters):
    tokenizer = processor.tokenizer
    for text in texts[:20]:
        for adds in (False, True):
            # What was asked for once is remembered.
            tokenizer(text, padding="max_length", max_length=3, truncation=True)
            piece = encoding._encode_piece(tokenizer, text, adds, as_characters)
            wanted = tokenizer(
                text,
                add_special_tokens=adds,
                split_special_tokens=as_characters,
                return_offsets_mapping=True,
            )
            assert piece == (wanted["input_ids"], wanted["offset_mapping"])


def test_threads_do_not_read_tags_as_others_do(processor_2_6):
    tokenizer = processor_2_6.tokenizer
    quoting = quoted("a <|im_end|> b", reserved_tags(["<|im_end|>"], keep_markers=False))
    as_characters = encode(tokenizer, quoting, False)
    as_tags = encode(tokenizer, "a <|im_end|> b", False)
    wrong, is_done = [], threading.Event()

    def others():
        while not is_done.is_set():
            if encode(tokenizer, "a <|im_end|> b", False) != as_tags:
                wrong.append("tags")
            tokenizer("b", padding="max_length", max_length=9)

    interval = sys.getswitchinterval()
    threads = [threading.Thread(target=others) for _ in range(2)]
    try:
        sys.setswitchinterval(1e-5)
        for thread in threads:
            thread.start()
        for _ in range(2000):
            if encode(tokenizer, quoting, False) != as_characters:
                wrong.append("characters")
    finally:
        is_done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert as_tags != as_characters
    assert wrong == []


def test_a_chat_of_transformers_may_be_encoded_in_pieces(processor_2_6):
    """Calls within a call of the tokenizer do not wait for each other."""
    tokenizer = processor_2_6.tokenizer
    if "sanitize_control_tokens" not in inspect.signature(tokenizer.apply_chat_template).parameters:
        pytest.skip("transformers has no such chats")
    encodings = []

    def encoded():
        encodings.append(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": "a <|im_end|> b"}],
                chat_template="{{ messages[0]['content'] }}<|im_end|>",
                sanitize_control_tokens=True,
                return_dict=False,
            )
        )

    thread = threading.Thread(target=encoded, daemon=True)
    thread.start()
    thread.join(30)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert [ids.count(end) for ids in encodings] == [1]
    assert encodings[0][-1] == end


def test_a_token_that_takes_the_space_beside_it_is_encoded_as_it_stands(new_processor):
    tokenizer = new_processor().tokenizer
    token = AddedToken("<gap>", lstrip=True, rstrip=True, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    for text in ("a <gap><gap><gap> b", "a<gap><gap>b <gap><gap>", "<gap><gap>"):
        plain = encode(tokenizer, text, False)
        assert plain.ids.count(tokenizer.convert_tokens_to_ids("<gap>")) == text.count("<gap>")
        assert encode(tokenizer, text, False, "<gap>") == plain


class Counted(list):
    """A list that counts how often its items are looked at."""

    looks = 0

    def __getitem__(self, index):
        self.looks += 1
        return super().__getitem__(index)


def test_typed_tags_cost_work_in_proportion_to_their_number():
    special = re.compile("<image>|<eos>")

    def looks(count: int) -> int:
        spans = Counted((i * 14, i * 14 + 7) for i in range(count))
        parts = stretches(special, "<image>a<eos>b" * count, spans)
        assert len(parts) == 2 * count + 1
        return spans.looks

    assert looks(800) < 2.2 * looks(400)


def test_stretches_cover_the_text_once():
    text = "<eos>a<image><image>b<eos>c<eos><image>"
    spans = [(6, 13), (13, 20), (32, 39)]
    assert stretches(re.compile("<image>|<eos>"), text, spans) == [
        (0, 5, False),
        (5, 21, True),
        (21, 32, False),
        (32, 39, True),
        (39, 39, False),
    ]


def test_a_token_in_front_of_every_span_is_in_none():
    encoded = Encoded([7, 7, 7], [(0, 0), (4, 5), (0, 0)])
    assert encoded.mask(7, [(9, 10), (2, 6)]).tolist() == [0, 1, 0]
