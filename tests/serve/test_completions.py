"""`/v1/completions`, `/tokenize` and `/detokenize` of the bundled model, over HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings

TEXT = "<|im_start|>user\nWhat colour is the sky?<|im_end|>\n<|im_start|>assistant\n"
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP8z4APMOGV"
    "HbHSAEEsAROxCnMTAAAAAElFTkSuQmCC"
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(ServeSettings())) as client:
        yield client


@pytest.fixture(scope="module")
def api(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="-", http_client=client)


def complete(client: TestClient, prompt: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": "nano", "prompt": prompt, "temperature": 0, "max_tokens": 8} | fields
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def chunks_of(client: TestClient, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "nano", "prompt": prompt, "temperature": 0, "max_tokens": 8} | fields
    response = client.post("/v1/completions", json=body | {"stream": True})
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def texts(found: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in found["choices"]] == list(range(len(found["choices"])))
    return [choice["text"] for choice in found["choices"]]


def tokens(client: TestClient, text: str) -> list[int]:
    found: list[int] = client.post("/tokenize", json={"prompt": text}).json()["tokens"]
    return found


def refused(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json={"model": "nano"} | body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_text_and_its_token_ids_go_on_alike(client: TestClient) -> None:
    by_text = complete(client, TEXT)
    ids = tokens(client, TEXT)
    assert texts(complete(client, ids)) == texts(by_text)
    assert by_text["object"] == "text_completion"
    assert by_text["id"].startswith("cmpl-")
    assert by_text["choices"][0]["finish_reason"] in ("stop", "length")
    usage = by_text["usage"]
    assert usage["prompt_tokens"] == len(ids)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert complete(client, ids)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_several_prompts_with_several_answers(client: TestClient) -> None:
    prompts = [TEXT, "One, two,", "Red and"]
    alone = [complete(client, each) for each in prompts]
    found = complete(client, prompts, n=2)
    assert texts(found) == [text for each in alone for text in texts(each) * 2]
    of_ids = complete(client, [tokens(client, each) for each in prompts], n=2)
    assert texts(of_ids) == texts(found)
    total = sum(each["usage"]["prompt_tokens"] for each in alone)
    assert found["usage"]["prompt_tokens"] == total
    new = sum(each["usage"]["completion_tokens"] for each in alone)
    assert found["usage"]["completion_tokens"] == 2 * new


def test_streamed_is_what_is_told_whole(client: TestClient) -> None:
    prompts = ["One, two,", TEXT]
    fields = {"n": 2, "logprobs": 2, "stream_options": {"include_usage": True}}
    whole = complete(client, prompts, n=2, logprobs=2)
    *chunks, last = chunks_of(client, prompts, **fields)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], whole["usage"]["total_tokens"])
    assert {chunk["id"] for chunk in chunks} == {last["id"]}
    assert {chunk["usage"] for chunk in chunks} == {None}
    for index, choice in enumerate(whole["choices"]):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [c["finish_reason"] for c in own][-1] == choice["finish_reason"]
        assert {c["finish_reason"] for c in own[:-1]} == {None}
        columns: dict[str, list] = {}
        for part in (c["logprobs"] for c in own if c["logprobs"] is not None):
            for column, values in part.items():
                columns[column] = [*columns.get(column, ()), *values]
        expected = choice["logprobs"]
        assert columns["tokens"] == expected["tokens"]
        assert columns["text_offset"] == expected["text_offset"]
        # The sixth digit depends on what is computed beside it.
        for found, told in zip(columns["top_logprobs"], expected["top_logprobs"], strict=True):
            assert found == pytest.approx(told, abs=1e-4)


def test_echo_begins_with_the_prompt(client: TestClient) -> None:
    plain = texts(complete(client, ["One, two,", "Red and"]))
    assert texts(complete(client, ["One, two,", "Red and"], echo=True)) == [
        "One, two," + plain[0],
        "Red and" + plain[1],
    ]
    ids = tokens(client, "One, two,")
    assert texts(complete(client, ids, echo=True)) == ["One, two," + plain[0]]
    pieces = [chunk["choices"][0]["text"] for chunk in chunks_of(client, "One, two,", echo=True)]
    assert pieces[0] == "One, two,"
    assert "".join(pieces) == "One, two," + plain[0]


def test_logprobs_are_columns_with_the_chosen_token(client: TestClient) -> None:
    (choice,) = complete(client, TEXT, logprobs=3)["choices"]
    columns = choice["logprobs"]
    assert len({len(columns[name]) for name in columns}) == 1
    assert "".join(columns["tokens"]).strip() == choice["text"].strip()
    for token, logprob, top, offset in zip(
        *(columns[n] for n in ("tokens", "token_logprobs", "top_logprobs", "text_offset")),
        strict=True,
    ):
        assert top[token] == logprob == max(top.values())
        assert 3 <= len(top) <= 4
        assert "".join(columns["tokens"])[offset:].startswith(token)
    (choice,) = complete(client, TEXT, logprobs=0)["choices"]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"]] == [1] * len(columns["tokens"])


def test_sixteen_tokens_where_nothing_is_said(client: TestClient) -> None:
    body = {"model": "nano", "prompt": "One", "min_tokens": 16, "temperature": 0}
    found = client.post("/v1/completions", json=body).json()
    assert found["usage"]["completion_tokens"] == 16
    assert found["choices"][0]["finish_reason"] == "length"


def test_the_usual_length_keeps_to_the_limit_of_the_server() -> None:
    with TestClient(create_app(ServeSettings(max_tokens=4))) as client:
        body = {"model": "nano", "prompt": "One", "temperature": 0}
        found = client.post("/v1/completions", json=body).json()
    assert found["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", [5] * 100_000]}, None),
        ({"prompt": [[5], [5] * 100_000]}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 2}, "n"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    client: TestClient, fields: dict[str, Any], param: str | None
) -> None:
    for streams in (False, True):
        error = refused(client, "/v1/completions", **{"prompt": "a", "stream": streams} | fields)
        if param is not None:
            assert error["param"] == param
            assert param in error["message"] or "prompt" in error["message"]


def test_openai_reads_it(api: openai.OpenAI, client: TestClient) -> None:
    found = api.completions.create(
        model="nano", prompt=["One, two,", TEXT], n=1, best_of=1, max_tokens=8, temperature=0
    )
    assert [choice.text for choice in found.choices] == texts(complete(client, ["One, two,", TEXT]))
    stream = api.completions.create(
        model="nano", prompt=TEXT, max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == found.choices[1].text


def test_tokens_there_and_back(client: TestClient) -> None:
    body = {"prompt": TEXT, "return_token_strs": True}
    found = client.post("/tokenize", json=body).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] > found["count"]
    back = client.post("/detokenize", json={"model": "nano", "tokens": found["tokens"]})
    assert back.json() == {"prompt": TEXT}
    assert client.post("/tokenize", json={"prompt": ""}).json()["count"] == 0
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


def test_a_conversation_has_the_tokens_that_are_charged(client: TestClient) -> None:
    content = [
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "text", "text": "What is it?"},
    ]
    messages = [{"role": "user", "content": content}]
    found = client.post("/tokenize", json={"messages": messages}).json()
    assert found["token_strs"] is None
    chat = client.post(
        "/v1/chat/completions", json={"model": "nano", "messages": messages, "max_tokens": 1}
    ).json()
    assert found["count"] == chat["usage"]["prompt_tokens"] > 16


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": "a", "mm_processor_kwargs": {}}, "mm_processor_kwargs"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": False},
            "add_generation_prompt",
        ),
        ("/detokenize", {"tokens": [10**6]}, None),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_wrong_tokens_are_refused(
    client: TestClient, path: str, body: dict[str, Any], param: str | None
) -> None:
    assert refused(client, path, **body)["param"] == param
    assert client.post(path, json=body | {"model": "other"}).status_code in (400, 404)
