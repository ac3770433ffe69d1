"""Tokenizers that make one token across the border of prompt and answer: such an answer is written
in tokens of its own, and trained in an example of its own where the history has it otherwise.
"""

import copy
import json

import pytest
from tokenizers import Tokenizer

from minicpmv.data.encode import EncodeSettings, encode_conversation
from minicpmv.data.messages import Conversation, Message
from minicpmv.data.pictures import PictureReader

from ..helpers.conversations import processor_of


def merging(model, left, right):
    """The processor of a model whose tokenizer joins two tokens into one before all others."""
    processor = copy.deepcopy(processor_of(model))
    fields = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    vocab = fields["model"]["vocab"]
    assert left in vocab
    assert right in vocab
    vocab[left + right] = len(processor.tokenizer)
    fields["model"]["merges"].insert(0, [left, right])
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
