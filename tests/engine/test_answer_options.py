"""Options that end an answer, say more of it or make it sooner, through `Chat`."""

import pickle
from typing import Any

import pytest

from minicpmv import Answer, Chat
from minicpmv.engine.hf import LogprobRecord, generate_ids

GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}
LONG = GREEDY | {"min_new_tokens": 20, "max_new_tokens": 20}
QUESTION = "Tell me a story, tell me a story."


def test_a_text_of_the_caller_ends_an_answer(chat: Chat) -> None:
    whole = chat.ask(QUESTION, **LONG)
    for stop in (whole[2:5], whole[0], whole[6:8]):
        expected = whole.partition(stop)[0].strip()
        stopped = chat.ask(QUESTION, **LONG, stop=stop)
        assert stopped == expected
        assert stopped.finish_reason == "stop"
        assert stopped.token_ids == whole.token_ids[: stopped.num_output_tokens]
        stream = chat.stream(QUESTION, **LONG, stop=["no such text", stop])
        assert "".join(stream) == expected
        assert stream.answer is not None
        assert vars(stream.answer).keys() == vars(stopped).keys()
        assert stream.answer.token_ids == stopped.token_ids
        assert stream.answer.finish_reason == "stop"
        assert stopped.stop_text == stream.answer.stop_text == stop
    unstopped = chat.ask(QUESTION, **LONG, stop="no such text")
    assert unstopped == whole
    assert unstopped.stop_text is None


def test_each_of_many_answers_ends_at_the_text(seeing: Chat) -> None:
    questions = [QUESTION, "What is it?", "Hello"]
    wholes = seeing.batch(questions, **LONG)
    stop = [whole[8:10] for whole in wholes]
    stopped = seeing.batch(questions, **LONG, stop=stop)
    for answer, question in zip(stopped, questions, strict=True):
        assert answer == seeing.ask(question, **LONG, stop=stop)
        assert not [text for text in stop if text in answer]


def test_a_text_of_the_caller_is_cut_off_beams(seeing: Chat) -> None:
    options = LONG | {"num_beams": 2, "logit_bias": {300: 100}}
    whole = seeing.ask(QUESTION, **options)
    answer = seeing.ask(QUESTION, **options, stop=whole[1:3])
    assert answer == whole[:1]
    assert answer.finish_reason == "stop"


def test_an_answer_has_its_tokens(chat: Chat) -> None:
    answer = chat.ask(QUESTION, **GREEDY, max_new_tokens=12)
    assert len(answer.token_ids) == answer.num_output_tokens
    assert chat.processor.decode_answer(list(answer.token_ids)) == answer
    assert answer.logprobs is None


@pytest.mark.parametrize("num_top", [0, 3])
def test_log_probabilities_are_those_of_generate(chat: Chat, num_top: int) -> None:
    options = {"max_new_tokens": 6, "seed": 3, "sampling": True, "logprobs": num_top}
    options |= {"frequency_penalty": 0.5, "temperature": 2.0, "num_beams": 1}
    answer = chat.ask(QUESTION, **options)
    inputs, plan = chat.prepare([[{"role": "user", "content": QUESTION}]], **options)
    record = LogprobRecord(num_top)
    generate_ids(chat.model, inputs, plan, record=record)
    assert answer.logprobs is not None
    assert [each.token_id for each in answer.logprobs] == list(answer.token_ids)
    for found, choice in zip(answer.logprobs, record.rows[0], strict=True):
        assert found.token_id == choice.token
        assert found.logprob == pytest.approx(choice.logprob, abs=1e-3)
        assert len(found.top) == num_top
        assert all(each.logprob <= 0 and not each.top for each in found.top)
        assert [t.logprob for t in found.top] == sorted(t.logprob for t in found.top)[::-1]
    copy: Answer = pickle.loads(pickle.dumps(answer))
    assert copy.logprobs == answer.logprobs
    assert vars(copy) == vars(answer)


@pytest.mark.parametrize("options", [GREEDY, {"sampling": True, "seed": 4, "num_beams": 1}])
@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}])
def test_guesses_change_no_token(chat: Chat, options: Any, more: Any) -> None:
    options = options | more | {"max_new_tokens": 20, "min_new_tokens": 20}
    plain = chat.ask(QUESTION, **options)
    for num_tokens in (1, 5):
        guessed = chat.ask(QUESTION, **options, prompt_lookup_num_tokens=num_tokens)
        assert guessed.token_ids == plain.token_ids
        assert guessed == plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ""}, "stop is ''; it must be a text, or a list of texts, none of them empty"),
        ({"stop": [3]}, r"stop is \[3\]; it must be a text"),
        ({"logprobs": 21}, "logprobs is 21; it must be at most 20"),
        ({"logprobs": True}, "logprobs is True; it must be a whole number"),
        ({"logit_bias": {10**7: 1}}, "logit_bias names token 10000000; the vocabulary has"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5; it must be at most 2"),
        ({"frequency_penalty": -2.5}, "frequency_penalty is -2.5; it must be at least -2"),
        ({"num_beams": 2, "logprobs": 1}, "logprobs would have no effect without num_beams=1"),
        (
            {"num_beams": 2, "prompt_lookup_num_tokens": 3},
            "prompt_lookup_num_tokens would have no effect without num_beams=1",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(seeing: Chat, options: Any, message: str) -> None:
    for call in (seeing.ask, seeing.stream, seeing.say):
        with pytest.raises(ValueError, match=message):
            call("Hi", **GREEDY | options)
