"""Tokenizers that make one token across the border of prompt and answer: such an answer is written
in tokens of its own, and trained in an example of its own where the history has it otherwise.
"""

import copy
import json
from functools import lru_cache
from unicodedata import normalize

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from minicpmv.data.encode import EncodeSettings, encode_conversation
from minicpmv.data.messages import Conversation, Message, chat_messages
from minicpmv.data.pictures import PictureReader
from minicpmv.processing.messages import is_blank

from ..helpers.conversations import MODELS, processor_of


@lru_cache
def merging(model, left, right):
    """The processor of a model whose tokenizer joins two tokens into one before all others."""
    processor = copy.deepcopy(processor_of(model))
    fields = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    vocab, merges = fields["model"]["vocab"], fields["model"]["merges"]
    assert left in vocab
    assert right in vocab
    # It takes the place of the last token that no other one is made of: ids keep their meaning.
    parts = {part for pair in merges for part in pair}
    replaced = next(name for name in map("".join, reversed(merges)) if name not in parts)
    vocab[left + right] = vocab.pop(replaced)
    others = [pair for pair in merges if "".join(pair) != replaced]
    fields["model"]["merges"] = [[left, right], *others]
    processor.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(fields))
    return processor


def examples_of(processor, *answers):
    messages = []
    for answer in answers:
        messages += [Message("user", ("Say",)), Message("assistant", (answer,))]
    return encode_conversation(
        processor, Conversation(tuple(messages)), EncodeSettings(), PictureReader()
    )


CASES = {
    "qwen: two newlines": ("2.6", "Ċ", "Ċ", "\nRed"),
    "sentencepiece: an operator": ("minicpm-2b", ">", "=", "=5"),
}


@pytest.mark.parametrize(("model", "left", "right", "answer"), CASES.values(), ids=CASES)
def test_an_answer_that_joins_the_prompt_is_encoded_apart(model, left, right, answer):
    processor = merging(model, left, right)
    joined = processor.tokenizer.convert_tokens_to_ids(left + right)
    (example,) = examples_of(processor, answer)
    ((_, start, end),) = example.spans
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": "Say"}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"][0].tolist()
    assert example.input_ids[: start + 1].tolist() == prompt
    said = example.targets[start : end - 1].tolist()
    assert joined not in example.input_ids.tolist()
    assert processor.text_of([*prompt, *said]) == processor.text_of(prompt) + answer


@pytest.mark.parametrize(("model", "left", "right", "answer"), CASES.values(), ids=CASES)
def test_it_is_an_example_of_its_own_when_others_follow(model, left, right, answer):
    processor = merging(model, left, right)
    joined = processor.tokenizer.convert_tokens_to_ids(left + right)
    whole, alone = examples_of(processor, "Yes.", answer, "Red.")
    assert [span[0] for span in whole.spans] == [1, 5]
    assert joined in whole.input_ids.tolist()  # as inference will have it in the history
    assert [span[0] for span in alone.spans] == [3]
    assert (whole.part, alone.part) == (0, 1)


def test_an_answer_whose_end_joins_the_next_question_is_an_example_of_its_own():
    # Nothing stands between an answer and the next question in the text models.
    processor = merging("minicpm-2b", "2", "<")
    joined = processor.tokenizer.convert_tokens_to_ids("2<")
    whole, alone = examples_of(processor, "2", "Red.")
    assert joined in whole.input_ids.tolist()
    assert [span[0] for span in whole.spans] == [3]
    ((index, start, end),) = alone.spans
    assert index == 1
    assert processor.decode_answer(alone.targets[start:end]) == "2"


PIECES = ["Hi", " ", "\n", "\n\n", "\t", "\r\n", "用户", "<用户>", "<AI>", "</s>", "<s>", "<unk>"]
PIECES += ["<|im_end|>", "<|im_start|>", "<|eot_id|>", "<image>", "(<image>./</image>)", "<slice>"]
PIECES += ["é", "e\u0301", "😀", "\u200b", "\xa0", "=", "2", "{{x}}", "assistant\n", "ﬁ", "\0", "़"]
TEXT = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
TOKENIZERS = {model: lambda model=model: processor_of(model) for model in [*MODELS, "nano"]} | {
    name: lambda case=case: merging(*case[:3]) for name, case in CASES.items()
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(max_examples=12)
@given(texts=st.lists(TEXT, min_size=3, max_size=3), answers=st.lists(TEXT, min_size=3, max_size=3))
def test_any_text_is_trained_behind_its_prompt(tokenizer, texts, answers):
    processor = TOKENIZERS[tokenizer]()
    assume(not any(map(is_blank, answers)))
    messages = [
        message
        for text, answer in zip(texts, answers, strict=True)
        for message in (Message("user", (text,)), Message("assistant", (answer,)))
    ]
    examples = encode_conversation(
        processor, Conversation(tuple(messages)), EncodeSettings(), PictureReader()
    )
    spans = [(span, example) for example in examples for span in example.spans]
    assert sorted(span[0] for span, _ in spans) == [1, 3, 5]
    for (index, start, end), example in spans:
        prompt = processor.apply_chat_template(
            chat_messages(messages[:index]),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )["input_ids"][0].tolist()
        assert example.input_ids[: start + 1].tolist() == prompt
        *said, terminator = example.targets[start:end].tolist()
        assert terminator in processor.terminator_ids
        assert not set(said) & set(processor.terminator_ids)
        before, answer = processor.text_of(prompt[-4:]), messages[index].text
        said_text = normalize("NFC", processor.text_of([*prompt[-4:], *said]))
        # 2.6 joins accents to their letters.
        assert said_text in {normalize("NFC", before + text) for text in (answer, answer.strip())}
