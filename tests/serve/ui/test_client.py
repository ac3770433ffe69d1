"""The page's client against a server of OpenAI's shape."""

import asyncio
import json
import math
from contextlib import aclosing

import pytest

from minicpmv.serve.ui.client import Client, Delta, End, Model, ServerError, Usage

from ...helpers.openai_server import PICTURES, FakeServer

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "What?"}]}


def answer_of(client, asked=ASKED):
    async def read():
        async with client:
            return [event async for event in client.answer(asked)]

    return asyncio.run(read())


def models_of(client):
    async def read():
        async with client:
            return await client.models()

    return asyncio.run(read())


def test_models_with_their_context_and_cut(client):
    assert models_of(client) == [Model("tiny", 8192, PICTURES), Model("other", 8192, PICTURES)]


def test_the_pieces_of_an_answer_and_its_cost(client, server):
    *deltas, end = answer_of(client)
    assert "".join(delta.text for delta in deltas) == " ".join(server.words)
    assert end == End("stop", Usage(100, 11, 40))
    assert server.asked[0]["stream_options"] == {"include_usage": True}


def test_tokens_have_their_probabilities(client):
    first = answer_of(client, ASKED | {"logprobs": True, "top_logprobs": 5})[0]
    assert isinstance(first, Delta)
    (token,) = first.tokens
    assert (token.text, token.top[1][0]) == ("I", "<b>other</b>")
    assert math.isclose(math.exp(token.logprob), 0.4)


def test_a_refusal_is_the_servers_own_sentence(client, server):
    server.refuses = "The model 'x' is not served here."
    with pytest.raises(ServerError, match="'x' is not served") as caught:
        answer_of(client)
    assert caught.value.code == "no"


def test_a_wrong_key_is_said_and_a_right_one_sent():
    server = FakeServer(key="right")
    with server.running() as url:
        with pytest.raises(ServerError, match="The key is wrong"):
            models_of(Client(url, "wrong"))
        assert len(models_of(Client(url, "right"))) == 2


def test_an_answer_that_breaks_off_is_an_error(client, server):
    server.breaks_after = 3
    with pytest.raises(ServerError, match="broke off in the middle"):
        answer_of(client)


def test_nobody_listens():
    with pytest.raises(ServerError, match="cannot be reached"):
        models_of(Client("http://127.0.0.1:9"))


def test_leaving_early_ends_the_answer_on_the_server(client, server):
    server.pause_s = 0.02
    server.words = server.words * 100

    async def leave():
        async with client:
            async with aclosing(client.answer(ASKED)) as stream:
                async for _ in stream:
                    break
            while not server.left:
                await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert server.left == 1


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://", ""])
def test_an_address_that_is_none(address):
    with pytest.raises(ValueError, match="must look like http"):
        Client(address)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host/v1/", "http://host/v1"),
        ("https://host/models/v1", "https://host/models/v1"),
    ],
)
def test_the_version_is_added_where_it_lacks(given, asked):
    assert Client(given).base_url == asked


def test_no_json_is_said_to_be_none():
    from minicpmv.serve.ui.client import _json

    assert _json(json.dumps({"a": 1}).encode()) == {"a": 1}
    for data in (b"<html>", b"[1]", b"\xff"):
        with pytest.raises(ServerError, match="no JSON object"):
            _json(data)
