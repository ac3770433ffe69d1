"""OpenAI's own client for Python against the application."""

from typing import Literal

import openai
import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings

from ..helpers.serving import fake_app, refusal

HELLO = [{"role": "user", "content": "What do you see?"}]


def client_of(http, **options):
    return openai.OpenAI(
        base_url=f"{http.base_url}/v1",
        api_key="key",
        http_client=http,
        **{"max_retries": 0} | options,
    )


@pytest.fixture(scope="module")
def nano():
    settings = ServeSettings(device="cpu", dtype="float32", api_key=("key",))
    with TestClient(create_app(settings)) as http:
        yield client_of(http)


@pytest.fixture
def fake(backend):
    with TestClient(fake_app(backend)) as http:
        yield client_of(http)


def test_models_are_listed_and_retrieved(nano):
    assert [model.id for model in nano.models.list()] == ["nano"]
    assert nano.models.retrieve("nano").owned_by == "minicpmv"
    with pytest.raises(openai.NotFoundError):
        nano.models.retrieve("openbmb/other")


def test_whole_and_streamed_answers_are_the_same(nano):
    whole = nano.chat.completions.create(model="nano", messages=HELLO, temperature=0)
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    text, roles, last = "", [], None
    with nano.chat.completions.create(
        model="nano",
        messages=HELLO,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            last = chunk
            for choice in chunk.choices:
                text += choice.delta.content or ""
                roles += [choice.delta.role] if choice.delta.role else []
    assert text == whole.choices[0].message.content
    assert roles == ["assistant"]
    assert last.usage == whole.usage.model_copy(
        update={"prompt_tokens_details": last.usage.prompt_tokens_details}
    )


def test_the_helper_for_streams_collects_the_answer(nano):
    with nano.chat.completions.stream(model="nano", messages=HELLO, temperature=0) as stream:
        events = [event.type for event in stream]
        answer = stream.get_final_completion()
    assert "content.delta" in events
    assert events[-1] == "content.done"
    assert answer.choices[0].message.content


def test_an_answer_of_a_schema_is_parsed(nano):
    class Seen(BaseModel):
        colour: Literal["red", "blue"]
        is_round: bool

    answer = nano.chat.completions.parse(
        model="nano", messages=HELLO, response_format=Seen, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Seen)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
def test_errors_are_the_clients_own(fake, backend, status, kind):
    backend.refuses = refusal("some_code", status, param="messages")
    with pytest.raises(kind) as caught:
        fake.chat.completions.create(model="fake", messages=HELLO)
    assert caught.value.code == "some_code"
    assert caught.value.param == "messages"
    assert "It cannot be." in str(caught.value)


def test_a_wrong_key_and_a_wrong_field_are_told(nano, fake):
    with pytest.raises(openai.AuthenticationError):
        nano.with_options(api_key="other").models.list()
    with pytest.raises(openai.BadRequestError, match="colour is not a parameter") as caught:
        fake.chat.completions.create(model="fake", messages=HELLO, extra_body={"colour": 1})
    assert caught.value.code == "unknown_parameter"


def test_an_error_in_mid_stream_raises(fake, backend):
    backend.breaks = refusal("unavailable", 503)
    stream = fake.chat.completions.create(model="fake", messages=HELLO, stream=True)
    with stream, pytest.raises(openai.APIError, match=r"It cannot be\."):
        list(stream)


def test_what_cannot_succeed_is_sent_once(backend):
    with TestClient(fake_app(backend)) as http:
        client = client_of(http, max_retries=2)
        backend.refuses = refusal()
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="fake", messages=HELLO)
        assert len(backend.jobs) == 1


def test_an_answer_goes_up_to_the_stop_text(nano):
    """With the white space before it, whole and streamed."""
    whole = nano.chat.completions.create(model="nano", messages=HELLO, temperature=0)
    text = whole.choices[0].message.content
    assert " " in text.strip()
    for place in (text.index(" ") + 1, text.index(" "), 2):
        stop = text[place : place + 3]
        options = {"model": "nano", "messages": HELLO, "temperature": 0, "stop": stop}
        cut = nano.chat.completions.create(**options)
        assert cut.choices[0].message.content == text.partition(stop)[0]
        with nano.chat.completions.create(**options, stream=True) as chunks:
            pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == text.partition(stop)[0]


def test_bytes_of_tokens_join_to_the_text(nano):
    """Also where a character is written by several tokens."""
    whole = nano.chat.completions.create(
        model="nano",
        messages=HELLO,
        logprobs=True,
        top_logprobs=2,
        extra_body={"structured_outputs": {"choice": ["grün 麤"]}},
    )
    tokens = whole.choices[0].logprobs.content
    assert any("\ufffd" in token.token for token in tokens)
    assert bytes(value for token in tokens for value in token.bytes).decode() == "grün 麤"


@pytest.mark.parametrize("stream", [False, True])
def test_a_constraint_that_becomes_too_complex_is_the_clients_error(nano, stream):
    """No other try would end otherwise: it is no fault of the server, which clients try again."""
    with pytest.raises(openai.APIError, match="cannot be followed any further") as caught:
        list(
            nano.chat.completions.create(
                model="nano",
                messages=HELLO,
                stream=stream,
                extra_body={"structured_outputs": {"regex": "a{100000}"}},
            )
        )
    assert caught.value.code == "invalid_value"
