"""Answers of servers behind this one: least loaded first, and what happens when one breaks."""

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from PIL import Image

from minicpmv.engine.answer import Answer
from minicpmv.errors import ArgumentError
from minicpmv.serve.errors import ApiError
from minicpmv.serve.jobs import Event, Finished, Job, Piece, Started
from minicpmv.serve.settings import ServeSettings
from minicpmv.serve.upstream.backend import VllmBackend, _unless_gone
from minicpmv.serve.upstream.failures import UpstreamError
from minicpmv.serve.upstream.pool import Upstream

from ...helpers.before_vllm import run
from ...helpers.fake_vllm import END, IDS, NUM_INPUT, WORDS, FakeVllm

TEXT = "".join(WORDS)
ASK = [{"role": "user", "content": "What is it?"}]


async def events_of(backend: VllmBackend, job: Job) -> list[Event]:
    async with aclosing(backend.answer(job)) as events:
        return [event async for event in events]


async def answers_of(backend: VllmBackend, job: Job) -> list[Answer]:
    found = await events_of(backend, job)
    answers = {event.index: event.answer for event in found if isinstance(event, Finished)}
    return [answers[index] for index in sorted(answers)]


async def text_of(backend: VllmBackend, **options: Any) -> str:
    (answer,) = await answers_of(backend, Job("nano", ASK, options))
    return answer.text


def test_events_are_those_of_an_answer() -> None:
    server = FakeVllm()
    found = run([server], lambda backend: events_of(backend, Job("nano", ASK)))
    assert found[0] == Started(NUM_INPUT)
    pieces = [event.text for event in found if isinstance(event, Piece)]
    assert pieces == WORDS
    last = found[-1]
    assert isinstance(last, Finished)
    answer = last.answer
    assert answer.text == TEXT
    assert (answer.num_input_tokens, answer.num_output_tokens) == (NUM_INPUT, len(WORDS) + 1)
    assert answer.num_cached_tokens == 4
    assert answer.finish_reason == "stop"
    assert answer.logprobs is None


def test_several_answers_are_counted_one_by_one() -> None:
    job = Job("nano", ASK, {"max_new_tokens": 2}, n=3)
    answers = run([FakeVllm()], lambda backend: answers_of(backend, job))
    assert [answer.text for answer in answers] == ["A red"] * 3
    assert [answer.num_output_tokens for answer in answers] == [2, 2, 2]
    assert [answer.finish_reason for answer in answers] == ["length"] * 3


def test_logprobs_have_ids_and_no_terminator() -> None:
    job = Job("nano", ASK, {"logprobs": 2})
    found = run([FakeVllm()], lambda backend: events_of(backend, job))
    tokens = [token for event in found if isinstance(event, Piece) for token in event.tokens]
    assert [token.text for token in tokens] == WORDS
    assert [token.token_id for token in tokens] == list(IDS.values())
    assert [[top.text for top in token.top] for token in tokens] == [[word] * 2 for word in WORDS]
    assert END not in [token.token_id for token in tokens]
    last = found[-1]
    assert isinstance(last, Finished)
    assert last.answer.logprobs == tuple(tokens)


@pytest.mark.parametrize("prompt", ["Once upon", [5, 6, 7]])
def test_raw_prompts_go_to_completions(prompt: Any) -> None:
    server = FakeVllm()
    job = Job("nano", prompt, {"logprobs": 1, "max_new_tokens": 3})
    (answer,) = run([server], lambda backend: answers_of(backend, job))
    assert answer.text == "A red circle"
    assert server.bodies[0]["path"] == "/v1/completions"
    assert server.bodies[0]["prompt"] == prompt
    assert answer.logprobs is not None
    assert [token.top[0].text for token in answer.logprobs] == WORDS[:3]


def test_pictures_go_as_they_are() -> None:
    server = FakeVllm()
    picture = Image.new("RGB", (9, 7), "red")
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}]}]
    run([server], lambda backend: answers_of(backend, Job("nano", messages)))
    url = server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")


def test_the_least_loaded_server_is_asked() -> None:
    servers = [FakeVllm(name) for name in "abc"]
    for server in servers:
        server.breaks = ["stall late"]

    async def work(backend: VllmBackend) -> list[str]:
        tasks = [asyncio.create_task(text_of(backend)) for _ in servers]
        while not all(server.bodies for server in servers):
            await asyncio.sleep(0.005)
        for server in servers:
            server.release.set()
        return await asyncio.gather(*tasks)

    texts = run(servers, work)
    assert sorted(texts) == [name + TEXT for name in "abc"]


def test_the_same_conversation_goes_to_the_same_idle_server() -> None:
    servers = [FakeVllm(name) for name in "abc"]

    async def work(backend: VllmBackend) -> list[str]:
        return [await text_of(backend) for _ in range(6)]

    assert len(set(run(servers, work))) == 1


@pytest.mark.parametrize(
    "broken", ["die", "error", "nonsense", (503, "starting"), (429, "full"), (500, "oops")]
)
def test_another_server_answers_where_one_breaks_before_the_first_token(broken: Any) -> None:
    servers = [FakeVllm(), FakeVllm()]
    servers[0].breaks = servers[1].breaks = [broken]  # whoever is asked first
    assert run(servers, text_of) == TEXT
    assert [len(server.bodies) for server in servers] == [1, 1]


def test_one_that_cannot_be_reached_is_left_out() -> None:
    good = FakeVllm()
    gone = FakeVllm()
    with gone.running():
        pass  # its port is closed now

    async def work(backend: VllmBackend) -> list[str]:
        return [await text_of(backend) for _ in range(3)]

    with good.running():
        settings = ServeSettings(engine="vllm", upstream=(gone.url, good.url))

        async def main() -> list[str]:
            backend = VllmBackend(settings)
            await backend.start()
            try:
                return await work(backend)
            finally:
                await backend.stop()

        assert asyncio.run(main()) == [TEXT] * 3


@pytest.mark.parametrize("broken", ["die late", "end late", "error late"])
def test_nobody_else_is_asked_after_the_first_token(broken: str) -> None:
    servers = [FakeVllm(), FakeVllm()]
    for server in servers:
        server.breaks = [broken]
    seen: list[str] = []

    async def work(backend: VllmBackend) -> None:
        async with aclosing(backend.answer(Job("nano", ASK))) as events:
            async for event in events:
                if isinstance(event, Piece):
                    seen.append(event.text)

    with pytest.raises(ApiError) as caught:
        run(servers, work)
    assert caught.value.status in (500, 503)
    assert seen == WORDS[:2]
    assert sum(len(server.bodies) for server in servers) == 1


def test_what_a_client_did_wrong_is_not_tried_elsewhere() -> None:
    servers = [FakeVllm(), FakeVllm()]
    message = "This model's maximum context length is 2048 tokens. However, you requested 9000."
    for server in servers:
        server.breaks = [(400, message)]
    with pytest.raises(ApiError, match="maximum context length is 2048") as caught:
        run(servers, text_of)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert sum(len(server.bodies) for server in servers) == 1


@pytest.mark.parametrize(
    ("broken", "status", "code", "retry_after"),
    [
        ((429, "full"), 429, "queue_full", 9),
        ((503, "starting"), 503, "unavailable", 9),
        ((401, "no"), 500, "internal_error", None),
        ((500, "oops"), 500, "internal_error", None),
        ("die", 503, "unavailable", 2),
    ],
)
def test_what_all_servers_say_is_passed_on(
    broken: Any, status: int, code: str, retry_after: int | None
) -> None:
    servers = [FakeVllm(), FakeVllm()]
    for server in servers:
        server.breaks = [broken] * 2
    with pytest.raises(ApiError) as caught:
        run(servers, text_of)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.retry_after == retry_after


def test_the_only_server_is_asked_again_where_the_connection_broke() -> None:
    server = FakeVllm()
    server.breaks = ["die"]
    assert run([server], text_of) == TEXT
    server = FakeVllm()
    server.breaks = ["die"] * 3
    with pytest.raises(ApiError, match="broke off"):
        run([server], text_of)
    assert len(server.bodies) == 2


def test_a_request_that_kills_servers_does_not_meet_all_of_them() -> None:
    servers = [FakeVllm() for _ in range(5)]
    for server in servers:
        server.breaks = ["die"]
    with pytest.raises(ApiError):
        run(servers, text_of)
    assert sum(len(server.bodies) for server in servers) == 3


def test_a_stall_in_the_middle_is_an_error() -> None:
    server = FakeVllm()
    server.breaks = ["stall late"]
    with pytest.raises(ApiError, match=r"sent nothing for 0\.05 s"):
        run([server], text_of, stall_s=0.05)


def test_an_answer_that_takes_too_long_ends_with_what_there_is() -> None:
    server = FakeVllm()
    server.breaks = ["stall late"]
    job = Job("nano", ASK, {"max_time": 0.1})
    (answer,) = run([server], lambda backend: answers_of(backend, job))
    assert answer.text == "".join(WORDS[:2])
    assert (answer.finish_reason, answer.num_output_tokens) == ("time", 2)


def test_another_answers_when_a_server_stops_being_well_before_the_first_token() -> None:
    servers = [FakeVllm(), FakeVllm()]

    async def work(backend: VllmBackend) -> str:
        servers[0].breaks = servers[1].breaks = ["stall"]  # whoever is asked first
        task = asyncio.create_task(text_of(backend))
        while not any(server.bodies for server in servers):
            await asyncio.sleep(0.001)
        for server in servers:
            server.is_well = not server.bodies
        return await task

    assert run(servers, work, check_s=0.01) == TEXT


def test_a_server_is_asked_again_when_it_is_back() -> None:
    server = FakeVllm()
    server.is_well = False

    async def work(backend: VllmBackend) -> str:
        with pytest.raises(ApiError, match="No server behind this one") as caught:
            await text_of(backend)
        assert (caught.value.status, caught.value.retry_after) == (503, 2)
        server.is_well = True
        while True:
            try:
                return await text_of(backend)
            except ApiError:
                await asyncio.sleep(0.01)

    assert run([server], work, check_s=0.01) == TEXT


def test_whoever_stops_reading_ends_the_answer_there() -> None:
    server = FakeVllm()
    server.breaks = ["stall late"]

    async def work(backend: VllmBackend) -> None:
        async with aclosing(backend.answer(Job("nano", ASK))) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        while not server.num_closed:
            await asyncio.sleep(0.005)

    run([server], work)


def test_too_many_requests_are_refused() -> None:
    server = FakeVllm()
    server.breaks = ["stall", "stall"]

    async def work(backend: VllmBackend) -> None:
        tasks = [asyncio.create_task(text_of(backend)) for _ in range(2)]
        while len(server.bodies) < 2:
            await asyncio.sleep(0.005)
        with pytest.raises(ApiError, match="the limit is 2") as caught:
            await text_of(backend)
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        server.release.set()
        assert await asyncio.gather(*tasks) == [TEXT] * 2

    run([server], work, max_num_seqs=1, max_queue=1)


def test_models_are_those_of_the_servers() -> None:
    async def cards(backend: VllmBackend) -> list[tuple[str, int | None]]:
        return [(card.name, card.context) for card in backend.models()]

    servers = [FakeVllm(models=("nano", "large")), FakeVllm(models=("nano",))]
    assert sorted(run(servers, cards)) == [("large", 2048), ("nano", 2048)]
    assert run(servers, cards, model=("large",), served_model_name=("big",)) == [("big", 2048)]


def test_a_model_has_the_name_that_it_has_there() -> None:
    server = FakeVllm(models=("openbmb/MiniCPM-V-2_6",))
    settings = {"model": ("openbmb/MiniCPM-V-2_6",), "served_model_name": ("nano",)}
    assert run([server], text_of, **settings) == TEXT
    assert server.bodies[0]["model"] == "openbmb/MiniCPM-V-2_6"
    with pytest.raises(ApiError, match=r"'nano' is not served here\. Served: openbmb/"):
        run([server], text_of)


def test_texts_become_tokens_and_back_there() -> None:
    server = FakeVllm()

    async def work(backend: VllmBackend) -> None:
        assert await backend.tokenize("nano", "A B", begins=False) == [IDS["A"], 1]
        assert await backend.token_texts("nano", [12, 10, 12]) == [" circle", "A", " circle"]
        assert await backend.tokenize("nano", [{"role": "user", "content": "x"}]) == [IDS["A"]]
        assert await backend.detokenize("nano", [IDS["A"], IDS[" red"]]) == "A red"

    run([server], work)
    assert server.bodies[0]["add_special_tokens"] is False
    (chat,) = [body for body in server.bodies if "messages" in body]
    assert chat["messages"] == [{"role": "user", "content": "x"}]


def test_the_key_and_the_name_of_a_request_go_with_it() -> None:
    server = FakeVllm()
    job = Job("nano", ASK, request_id="abc")
    run([server], lambda backend: answers_of(backend, job), upstream_api_key="secret")
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.headers[0]["x-request-id"] == "abc"


def test_counters_of_all_servers_are_added() -> None:
    async def stats(backend: VllmBackend) -> Any:
        return backend.stats()

    found = run([FakeVllm(), FakeVllm()], stats)["nano"]
    assert found["requests"] == {"running": 6, "waiting": 2, "preempted": 10}
    assert found["prefixes"]["held_bytes"] / found["prefixes"]["max_bytes"] == 0.25
    assert (found["prefixes"]["prompt_tokens"], found["prefixes"]["known_tokens"]) == (100, 60)
    assert found["features"] == {"hits": 8, "misses": 10}


def test_a_server_that_is_gone_runs_nothing() -> None:
    async def stats(backend: VllmBackend) -> Any:
        backend._pool.servers[0].fall("killed")
        return backend.stats()

    found = run([FakeVllm(), FakeVllm()], stats)["nano"]
    assert found["requests"] == {"running": 3, "waiting": 1, "preempted": 10}


def test_an_answer_that_breaks_when_it_is_given_up_is_no_complaint() -> None:
    async def chunks() -> AsyncGenerator[Any, None]:
        try:
            await asyncio.Event().wait()
            yield None
        except asyncio.CancelledError:
            raise OSError("broke off") from None

    async def work() -> list[Any]:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
        server = Upstream("http://a")
        waiting = asyncio.create_task(_unless_gone(server, chunks(), 60))
        await asyncio.sleep(0.01)
        server.went.set()
        with pytest.raises(UpstreamError):
            await waiting
        del waiting
        gc.collect()
        return complaints

    assert asyncio.run(work()) == []


@pytest.mark.parametrize("url", ["", "10.0.0.2:8000", "ftp://host", "http://", "http://a:b:c"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ArgumentError, match=r"--upstream is|expected a list|belong together"):
        VllmBackend(ServeSettings(engine="vllm", upstream=(url,)))


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_an_address_may_end_with_v1(path: str) -> None:
    settings = ServeSettings(engine="vllm", upstream=(f"http://127.0.0.1:1{path}",))
    (server,) = VllmBackend(settings)._pool.servers
    assert server.url == "http://127.0.0.1:1"
