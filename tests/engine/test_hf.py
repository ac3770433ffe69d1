"""What `generate` is made to do beside what it does by itself."""

from typing import Any

import pytest
import torch

from minicpmv import Chat
from minicpmv.engine.detokenize import TokenTexts, answer_end, answer_text
from minicpmv.engine.hf import Clock, LogprobRecord, generate_ids, stream_ids

GREEDY = {"sampling": False, "num_beams": 1}
LONG = GREEDY | {"min_new_tokens": 24, "max_new_tokens": 24}


def messages(*texts: str) -> list[Any]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_a_text_of_the_caller_ends_an_answer(chat: Chat) -> None:
    inputs, plan = chat.prepare(messages("Hi"), **LONG)
    (ids,) = generate_ids(chat.model, inputs, plan).tolist()
    texts = TokenTexts(chat.processor)
    stop = texts(ids[5])[-2:] + texts(ids[6])[:2]
    _, plan = chat.prepare(messages("Hi"), **LONG, stop=stop)
    (stopped,) = generate_ids(chat.model, inputs, plan).tolist()
    assert stopped == ids[: len(stopped)]
    end = answer_end(stopped, chat.processor, [stop])
    assert len(stopped) == end == answer_end(ids, chat.processor, [stop])
    assert list(stream_ids(chat.model, inputs, plan)) == stopped


def test_a_text_of_the_caller_ends_a_beam(chat: Chat) -> None:
    (likely,) = chat.processor.tokenizer("so", add_special_tokens=False)["input_ids"][-1:]
    options = LONG | {"num_beams": 3, "logit_bias": {likely: 100}}
    inputs, plan = chat.prepare(messages("Hi"), **options)
    assert set(generate_ids(chat.model, inputs, plan)[0].tolist()) == {likely}
    stop = TokenTexts(chat.processor)(likely)
    _, plan = chat.prepare(messages("Hi"), **options, stop=stop)
    (stopped,) = generate_ids(chat.model, inputs, plan).tolist()
    assert stopped[0] == likely
    assert answer_end(stopped, chat.processor, [stop]) == 1


def test_rows_of_a_batch_stop_alone(seeing: Chat) -> None:
    inputs, plan = seeing.prepare(messages("Hi", "What is the colour of the sky?"), **LONG)
    rows = generate_ids(seeing.model, inputs, plan).tolist()
    stop = answer_text(rows[0], seeing.processor, strip=False)[4:9]
    _, plan = seeing.prepare(messages("Hi", "?"), **LONG, stop=[stop, "no such text"])
    stopped = generate_ids(seeing.model, inputs, plan).tolist()
    for row, expected in zip(stopped, rows, strict=True):
        end = answer_end(expected, seeing.processor, [stop])
        assert row[:end] == expected[:end]
        assert answer_end(row, seeing.processor, [stop]) == end
        text = answer_text(expected, seeing.processor, stop=[stop])
        assert answer_text(row[:end], seeing.processor, stop=[stop]) == text


def test_time_counts_from_the_call(seeing: Chat) -> None:
    """Waiting and reading pictures, too."""
    inputs, plan = seeing.prepare(messages("Hi"), **LONG, max_time=50)
    assert generate_ids(seeing.model, inputs, plan, stopping=[Clock(100)]).shape == (1, 1)
    assert generate_ids(seeing.model, inputs, plan, stopping=[Clock()]).shape == (1, 24)


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_beams_are_penalised_and_biased(seeing: Chat, penalty: str) -> None:
    options = {"sampling": False, "num_beams": 3, "max_new_tokens": 12, "min_new_tokens": 12}
    options |= {"repetition_penalty": 1.0}
    inputs, plan = seeing.prepare(messages("Hi"), **options)
    (plain,) = generate_ids(seeing.model, inputs, plan).tolist()

    def found(**more: Any) -> list[int]:
        _, plan = seeing.prepare(messages("Hi"), **options, **more)
        (ids,) = generate_ids(seeing.model, inputs, plan).tolist()
        return ids

    assert len(set(found(**{penalty: -2.0}))) <= len(set(found(**{penalty: 2.0})))
    assert plain[0] not in found(logit_bias={plain[0]: -100})
    assert set(found(logit_bias={plain[0]: 100})) == {plain[0]}


def test_log_probabilities_of_a_batch(seeing: Chat) -> None:
    """Those of each row alone, and of the same tokens as without them."""
    questions = ["Hi", "What is the colour of the sky?"]
    options = GREEDY | {"max_new_tokens": 6, "no_repeat_ngram_size": 2, "min_new_tokens": 3}
    inputs, plan = seeing.prepare(messages(*questions), **options, logprobs=2)
    record = LogprobRecord(2)
    rows = generate_ids(seeing.model, inputs, plan, record=record).tolist()
    _, without = seeing.prepare(messages(*questions), **options)
    assert generate_ids(seeing.model, inputs, without).tolist() == rows
    assert [[choice.token for choice in row] for row in record.rows] == rows
    for question, row in zip(questions, record.rows, strict=True):
        inputs, plan = seeing.prepare(messages(question), **options, logprobs=2)
        alone = LogprobRecord(2)
        ids = list(stream_ids(seeing.model, inputs, plan, record=alone))
        assert [choice.token for choice in alone.rows[0]] == ids
        for choice, expected in zip(row, alone.rows[0], strict=False):
            assert choice.token == expected.token
            assert choice.logprob == pytest.approx(expected.logprob, abs=1e-4)
            assert choice.logprob is not None
            assert choice.logprob <= max(value for _, value in choice.top or ()) <= 0


def test_the_first_log_probability_is_that_of_the_forward_pass(seeing: Chat) -> None:
    inputs, plan = seeing.prepare(messages("Hi"), max_new_tokens=1, seed=3, logprobs=0)
    record = LogprobRecord(0)
    ((token,),) = generate_ids(seeing.model, inputs, plan, record=record).tolist()
    with torch.inference_mode():
        logits = seeing.model(**inputs).logits[0, -1].float()
    assert record.rows[0][0].logprob == pytest.approx(float(logits.log_softmax(-1)[token]), 1e-5)
    assert record.rows[0][0].top == []
