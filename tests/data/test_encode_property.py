"""What is trained is what inference does: for every recorded conversation of all nine models the
tokens up to an answer are the generation prompt, and the trained tokens are the answer and its end.
"""

from dataclasses import replace

import numpy as np
import pytest

from minicpmv.data.encode import NO_TARGET, EncodeSettings, encode_conversation
from minicpmv.data.messages import Conversation, Message, chat_messages
from minicpmv.data.pictures import PictureReader

from ..helpers.conversations import MODELS, processor_of, reads_pictures, recorded

ANSWERS = {
    "plain": "A red circle.",
    "chinese": "一只猫坐在 2 张椅子上。",
    "leading newline": "\nRed",
    "leading space": " red",
    "trailing newline": "Red\n",
    "number": "2",
    "operator": "=5",
    "tags": "a <|im_end|> <unk> </s><image> b",
    "long": "one two three, " * 40 + "end",
}
READER = PictureReader()


def written(model: str, answer: str) -> str:
    """The answer as the template of the model writes it."""
    trims = model in ("2.5", "minicpm-1b", "minicpm-2b", "minicpm-moe-8x2b")
    return answer.strip() if trims else answer


def asked(processor, messages, settings):
    """What inference gives the model to answer."""
    kwargs = {**settings, "return_pixel_values": False} if settings is not None else None
    return processor.apply_chat_template(
        chat_messages(messages),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs=kwargs,
    )


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("model", [*MODELS, "nano"])
def test_every_answer_is_trained_behind_its_generation_prompt(model, answer):
    processor = processor_of(model)
    for record in recorded(model):
        messages = (
            *record.messages,
            Message("assistant", (answer,)),
            Message("user", ("And then?",)),
            Message("assistant", ("Nothing.",)),
        )
        settings = EncodeSettings(**record.settings)
        examples = encode_conversation(processor, Conversation(messages), settings, READER)
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        spans = [(span, example) for example in examples for span in example.spans]
        assert sorted(span[0] for span, _ in spans) == answers, record.name
        for (index, start, end), example in spans:
            inputs = asked(
                processor, messages[:index], record.settings if reads_pictures(model) else None
            )
            prompt = inputs["input_ids"][0].tolist()
            assert example.input_ids[: start + 1].tolist() == prompt
            if reads_pictures(model):
                mask = example.mm_token_type_ids[: start + 1].tolist()
                assert mask == inputs["mm_token_type_ids"][0].tolist()
            *said, terminator = example.targets[start:end].tolist()
            assert example.input_ids[start + 1 : end].tolist() == said
            assert terminator in processor.terminator_ids
            expected = written(model, messages[index].text)
            tail = prompt[-4:]
            text = processor.text_of([*tail, *said])
            assert text == processor.text_of(tail) + expected, record.name
        for example in examples:
            trained = example.targets != NO_TARGET
            assert trained.sum() == sum(end - start for _, start, end in example.spans)
            inside = np.zeros(len(trained), bool)
            for _, start, end in example.spans:
                inside[start:end] = True
            assert (trained == inside).all()
            assert not example.mm_token_type_ids[trained].any()
            assert example.input_ids[-1] in processor.terminator_ids


@pytest.mark.parametrize("model", [*MODELS, "nano"])
def test_the_answer_is_what_the_whole_conversation_has(model):
    processor = processor_of(model)
    for record in recorded(model):
        for answer in ("A red circle.", "一只猫", "2"):
            messages = (*record.messages, Message("assistant", (answer,)))
            (example,) = encode_conversation(
                processor, Conversation(messages), EncodeSettings(**record.settings), READER
            )
            kwargs = {**record.settings, "return_pixel_values": False}
            whole = processor.apply_chat_template(
                chat_messages(messages),
                tokenize=True,
                return_dict=True,
                processor_kwargs=kwargs if reads_pictures(model) else None,
            )["input_ids"][0].tolist()
            ids = example.input_ids.tolist()
            assert whole[: len(ids) - 1] == ids[:-1]
            if len(whole) >= len(ids):  # the template writes what ends the answer
                assert whole[len(ids) - 1] == ids[-1]


@pytest.mark.parametrize("model", [*MODELS, "nano"])
def test_an_answer_that_is_not_trained_has_no_targets(model):
    processor = processor_of(model)
    for record in recorded(model)[:4]:
        untrained = tuple(
            replace(message, train=False) if message.role == "assistant" else message
            for message in record.messages
        )
        messages = (*untrained, Message("assistant", ("Red.",)))
        settings = EncodeSettings(**record.settings)
        (example,) = encode_conversation(processor, Conversation(messages), settings, READER)
        ((index, start, end),) = example.spans
        assert index == len(messages) - 1
        assert (example.targets[:start] == NO_TARGET).all()
        assert (example.targets[end:] == NO_TARGET).all()


@pytest.mark.parametrize("model", ["nano", *filter(reads_pictures, MODELS)])
def test_pictures_are_those_of_the_call(model):
    processor = processor_of(model)
    compared = 0
    for record in recorded(model):
        sizes = [p.source.size for m in record.messages for p in m.pictures]
        if not sizes or max(width * height for width, height in sizes) > 500_000:
            continue
        messages = (*record.messages, Message("assistant", ("Red.",)))
        settings = EncodeSettings(**record.settings)
        (example,) = encode_conversation(processor, Conversation(messages), settings, READER)
        pixels, target_sizes = READER.pixels(processor, example.pictures)
        inputs = processor.apply_chat_template(
            chat_messages(record.messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs=record.settings,
        )
        assert pixels.equal(inputs["pixel_values"])
        assert target_sizes.equal(inputs["target_sizes"])
        assert target_sizes.tolist() == [
            list(size) for ref in example.pictures for size in ref.target_sizes
        ]
        compared += 1
    assert compared
