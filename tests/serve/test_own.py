"""The server over the bundled model: what comes out is what the library answers."""

import asyncio
import base64
import io
import weakref

import pytest
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from minicpmv.loader import load
from minicpmv.serve.app import create_app
from minicpmv.serve.own import OwnBackend
from minicpmv.serve.settings import ServeSettings

from ..helpers.golden import CHECKPOINTS
from ..helpers.serving import Exchange, events_of

CHAT = "/v1/chat/completions"
EXACT = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def client():
    app = create_app(ServeSettings(max_tokens=64, max_num_seqs=4, max_queue=8, **EXACT))
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def nano():
    with load("nano", "cpu", "float32") as chat:
        yield chat


def request(question, **fields):
    messages = [{"role": "user", "content": question}]
    return {"model": "nano", "messages": messages, "temperature": 0, **fields}


def circle():
    image = Image.new("RGB", (200, 160), "white")
    ImageDraw.Draw(image).ellipse((40, 30, 140, 130), fill="red")
    return image


def data_url(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def test_whole_streamed_and_several_answers_are_those_of_the_library(client, nano):
    image, question = circle(), "What is in the picture?"
    expected = nano.ask(question, [image], sampling=False, num_beams=1, max_new_tokens=20)
    content = [
        {"type": "image_url", "image_url": {"url": data_url(image)}},
        {"type": "text", "text": question},
    ]
    whole = client.post(CHAT, json=request(content, max_tokens=20)).json()
    choice = whole["choices"][0]
    assert choice["message"]["content"] == expected.text
    assert choice["finish_reason"] == expected.finish_reason
    assert whole["usage"]["prompt_tokens"] == expected.num_input_tokens
    assert whole["usage"]["completion_tokens"] == expected.num_output_tokens
    body = request(content, max_tokens=20, stream=True, n=2)
    chunks = events_of(client.post(CHAT, json=body).text)
    for index in range(2):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == expected.text


def test_log_probabilities_are_those_of_the_text(client, nano):
    question = "What do you see?"
    expected = nano.ask(question, sampling=False, num_beams=1, logprobs=2)
    answer = client.post(CHAT, json=request(question, logprobs=True, top_logprobs=2)).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == expected.num_output_tokens - 1  # without the terminator
    assert "".join(token["token"] for token in content) == expected.text
    for found, token in zip(content, expected.logprobs, strict=False):
        assert found["logprob"] == pytest.approx(token.logprob, abs=1e-5)
        assert found["bytes"] == list(token.text.encode())
        assert [each["token"] for each in found["top_logprobs"]] == [t.text for t in token.top]
    body = request(question, logprobs=True, top_logprobs=2, stream=True)
    chunks = [chunk["choices"][0] for chunk in events_of(client.post(CHAT, json=body).text)]
    streamed = [t for chunk in chunks for t in (chunk["logprobs"] or {}).get("content", ())]
    assert [t["token"] for t in streamed] == [t["token"] for t in content]


def test_a_second_request_finds_what_the_first_computed(client):
    body = request("Name a colour that is warm.", max_tokens=1)
    first, second = (client.post(CHAT, json=body).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] < first["prompt_tokens"] - 1
    assert second["prompt_tokens_details"]["cached_tokens"] == second["prompt_tokens"] - 1


def test_a_prompt_longer_than_the_context_is_told_with_both_numbers(client):
    response = client.post(CHAT, json=request("word " * 5000))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "4096" in error["message"]
    assert "prompt is too long" in error["message"]  # by which LiteLLM knows it
    assert error["param"] == "messages"
    stream = client.post(CHAT, json=request("word " * 5000, stream=True))
    assert stream.status_code == 400


def test_more_answers_than_the_server_gives_at_a_time_are_refused_for_good(client):
    response = client.post(CHAT, json=request("Hello", n=13))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"


def test_the_limit_of_the_server_holds_where_no_length_is_asked_for():
    with TestClient(create_app(ServeSettings(max_tokens=2, **EXACT))) as client:
        answer = client.post(CHAT, json=request("What do you see?")).json()
        long = client.post(CHAT, json=request("word " * 3990)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2
    assert "choices" in long


def test_the_model_says_what_holds_where_nothing_is_said(client):
    model = client.get("/v1/models/nano").json()
    assert (model["is_loaded"], model["max_model_len"]) == (True, 4096)
    assert model["supports_images"] is True
    assert model["defaults"]["do_sample"] is False
    assert "temperature" not in model["defaults"]
    assert model["defaults"]["max_new_tokens"] > 0


def test_several_models_are_loaded_when_they_are_asked_for():
    places = (str(CHECKPOINTS["2.6"]), "nano")
    settings = ServeSettings(model=places, served_model_name=("a/b", "nano"), **EXACT)
    with TestClient(create_app(settings)) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [(model["id"], model["is_loaded"]) for model in listed] == [
            ("a/b", False),
            ("nano", False),
        ]
        body = request("Hello", max_tokens=2) | {"model": "a/b"}
        assert client.post(CHAT, json=body).json()["model"] == "a/b"
        listed = client.get("/v1/models").json()["data"]
        assert [model["is_loaded"] for model in listed] == [True, False]
        assert client.get("/v1/models/a/b").json()["defaults"]


def test_ollama_is_told_the_sizes_on_disk_and_in_memory():
    places = (str(CHECKPOINTS["2.6"]), "nano")
    settings = ServeSettings(model=places, served_model_name=("tiny", "nano"), **EXACT)
    with TestClient(create_app(settings)) as client:
        client.post("/api/generate", json={"model": "tiny"})
        sizes = {each["name"]: each["size"] for each in client.get("/api/tags").json()["models"]}
        (loaded,) = client.get("/api/ps").json()["models"]
    files = CHECKPOINTS["2.6"].glob("*.safetensors")
    assert sizes["tiny:latest"] == sum(file.stat().st_size for file in files) > 0
    assert sizes["nano:latest"] > 20_000_000
    assert loaded["name"] == "tiny:latest"
    in_memory = pytest.approx(_bytes_of(CHECKPOINTS["2.6"]), rel=0.02)
    assert (loaded["size"], loaded["size_vram"]) == (in_memory, 0)


def test_a_budget_holds_one_model_at_a_time():
    places = {"first": str(CHECKPOINTS["2.6"]), "second": str(CHECKPOINTS["2.5"])}
    needed = max(_bytes_of(place) for place in places.values())
    settings = ServeSettings(
        model=tuple(places.values()),
        served_model_name=tuple(places),
        memory_budget=needed + 1,
        **EXACT,
    )
    with TestClient(create_app(settings)) as client:
        entry = client.app.state.server.backend._registry.entry("first")
        for name in (*places, "first"):
            body = request("Hello", max_tokens=1) | {"model": name}
            assert client.post(CHAT, json=body).status_code == 200
            if name == "first":
                former = weakref.ref(entry.model.model)
            else:
                assert former() is None  # its memory is free
            listed = client.get("/v1/models").json()["data"]
            assert [model["id"] for model in listed if model["is_loaded"]] == [name]
    with TestClient(create_app(ServeSettings(model=tuple(places.values()), memory_budget=1))) as c:
        response = c.post(CHAT, json=request("Hello") | {"model": places["first"]})
        assert response.json()["error"]["code"] == "model_too_large"


def _bytes_of(place):
    return OwnBackend(ServeSettings(**EXACT))._bytes_of(place, None)


def test_memory_is_counted_alike_before_and_after_loading(nano):
    backend = OwnBackend(ServeSettings(**EXACT))
    after = backend._bytes_of("nano", nano)
    assert backend._bytes_of("nano", None) == pytest.approx(after, rel=0.02)


def test_what_cannot_be_loaded_is_an_error_at_the_start(tmp_path):
    app = create_app(ServeSettings(model=(str(tmp_path),)))
    with pytest.raises(OSError, match=r"no config\.json"), TestClient(app):
        pass
    app = create_app(ServeSettings(model=("nano", str(tmp_path))))
    with pytest.raises(OSError, match=r"no config\.json"), TestClient(app):
        pass


@pytest.mark.parametrize("streams", [False, True])
def test_the_engine_is_free_when_the_client_goes(streams):
    async def run():
        app = create_app(ServeSettings(max_num_seqs=1, max_queue=1, **EXACT))
        async with app.router.lifespan_context(app):
            backend = app.state.server.backend

            def running():
                return backend.stats()["nano"]["requests"]["running"]

            body = request("Tell a story.", max_tokens=3000, ignore_eos=True, stream=streams)
            long = Exchange(app, body=body)
            while not running():
                await asyncio.sleep(0)
            if streams:
                await long.until('"content":"')
            long.hang_up()
            await long.end()
            # The one place is free: what comes next is answered, long before the first would end.
            short = await Exchange(app, body=request("What do you see?", max_tokens=2)).end()
            assert short.status == 200
            while running():
                await asyncio.sleep(0)
            assert backend.stats()["nano"]["requests"]["cancelled"] == 1

    asyncio.run(run())


def test_a_search_with_beams_is_counted_as_running():
    async def run():
        app = create_app(ServeSettings(**EXACT))
        async with app.router.lifespan_context(app):
            backend = app.state.server.backend

            def running():
                return backend.stats()["nano"]["requests"]["running"]

            body = request("Tell a story.", max_tokens=3000, ignore_eos=True, num_beams=2)
            long = Exchange(app, body=body)
            while not running():
                await asyncio.sleep(0)
            long.hang_up()
            await long.end()
            assert running() == 0

    asyncio.run(run())


def test_an_answer_ends_at_the_limit_of_time():
    with TestClient(create_app(ServeSettings(timeout=0.05, **EXACT))) as client:
        body = request("Tell a story.", max_tokens=3000, ignore_eos=True)
        answer = client.post(CHAT, json=body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] < 3000
