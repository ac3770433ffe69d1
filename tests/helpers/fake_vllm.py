"""A server that answers in vLLM's shapes, and breaks on purpose."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

WORDS = ["A", " red", " circle", ",", " \u2028\x85", "é"]  # the fifth has separators of lines
IDS = {word: 10 + number for number, word in enumerate(WORDS)}
END = 2
NUM_INPUT = 7

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="nano"} 3.0
vllm:num_requests_waiting{engine="0",model_name="nano"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="nano"} 0.25
vllm:num_preemptions_total{engine="0",model_name="nano"} 5.0
vllm:prefix_cache_queries_total{engine="0",model_name="nano"} 50.0
vllm:prefix_cache_hits_total{engine="0",model_name="nano"} 30.0
vllm:mm_cache_queries_total{engine="0",model_name="nano"} 9.0
vllm:mm_cache_hits_total{engine="0",model_name="nano"} 4.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="nano"} 4.0
"""


class FakeVllm:
    """One server.

    Attributes:
        name: that its answers begin with.
        breaks: what the next requests meet, one each: "die" and "stall" before the first token,
            "die late" and "stall late" after it, "error" and "error late" as an object in the
            stream, "nonsense", or a status and a message.
        bodies: of all requests, with the path as "path".
        is_well: what `/health` says.
        num_closed: streams that the client left before their end.
    """

    def __init__(self, name: str = "", models: tuple[str, ...] = ("nano",)):
        self.name = name
        self.models = models
        self.breaks: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.is_well = True
        self.num_closed = 0
        self.url = ""
        self.logprobs: dict[int, float] = {}  # of first tokens, where they are asked for
        self.release = threading.Event()  # ends a stall
        self.app = FastAPI()
        for path in ("/v1/chat/completions", "/v1/completions"):
            self.app.add_api_route(path, self._answer, methods=["POST"])
        self.app.add_api_route("/tokenize", self._tokenize, methods=["POST"])
        self.app.add_api_route("/detokenize", self._detokenize, methods=["POST"])
        self.app.add_api_route("/health", self._health)
        self.app.add_api_route("/v1/models", self._models)
        self.app.add_api_route("/metrics", self._metrics)

    async def _health(self) -> Any:
        return PlainTextResponse("", 200 if self.is_well else 503)

    async def _metrics(self) -> Any:
        return PlainTextResponse(PAGE)

    async def _models(self) -> Any:
        cards = [
            {
                "id": model,
                "object": "model",
                "created": 1,
                "owned_by": "vllm",
                "max_model_len": 2048,
                "permission": [],
            }
            for model in self.models
        ]
        return {"object": "list", "data": cards}

    async def _record(self, request: Request) -> dict[str, Any]:
        body = json.loads(await request.body())
        self.bodies.append(body | {"path": request.url.path})
        self.headers.append(dict(request.headers))
        return body

    async def _tokenize(self, request: Request) -> Any:
        body = await self._record(request)
        if self.breaks:
            return self._refusal(*self.breaks.pop(0))
        tokens = [IDS.get(word, 1) for word in body.get("prompt", "A").split(" ")]
        return {"count": len(tokens), "max_model_len": 2048, "tokens": tokens}

    async def _detokenize(self, request: Request) -> Any:
        body = await self._record(request)
        texts = {number: word for word, number in IDS.items()}
        return {"prompt": "".join(texts[token] for token in body["tokens"])}

    def _refusal(self, status: int, message: str) -> Any:
        error = {"message": message, "type": "Error", "param": None, "code": status}
        return JSONResponse({"error": error}, status, {"retry-after": "9"})

    async def _answer(self, request: Request) -> Any:
        body = await self._record(request)
        broken = self.breaks.pop(0) if self.breaks else ""
        if isinstance(broken, tuple):
            return self._refusal(*broken)
        if "logprob_token_ids" in body:
            return self._first_token(body)
        assert body["stream"] is True
        assert body["stream_options"]["include_usage"] is True
        return StreamingResponse(
            self._stream(body, request, broken), media_type="text/event-stream"
        )

    def _first_token(self, body: dict[str, Any]) -> Any:
        """A whole answer of one token with the probabilities that were asked for."""
        assert body["max_tokens"] == 1
        assert body["logprobs"] is True
        asked = [
            {"token": f"token_id:{token}", "logprob": self.logprobs.get(token, -20.0), "bytes": [1]}
            for token in body["logprob_token_ids"]
        ]
        first = {"token": f"token_id:{IDS['A']}", "logprob": -0.1, "bytes": [65]}
        content = [first | {"top_logprobs": [first, *asked]}]
        choice = {"index": 0, "message": {"content": "A"}, "finish_reason": "length"}
        choices = [choice | {"logprobs": {"content": content}}]
        return {"id": "x", "model": body["model"], "choices": choices, "usage": _usage(1)}

    async def _stream(
        self, body: dict[str, Any], request: Request, broken: str
    ) -> AsyncIterator[str]:
        is_chat = request.url.path.endswith("/chat/completions")
        try:
            if broken == "die":
                raise ConnectionError
            if broken == "stall":
                await self._stall()
            if broken == "error":
                yield _data({"error": {"message": "engine dead", "type": "x", "code": 500}})
                yield "data: [DONE]\n\n"
                return
            if broken == "nonsense":
                yield "data: {nonsense\n\n"
                return
            for number, chunk in enumerate(_chunks(body, is_chat, self.name), 1):
                yield _data(chunk)
                if number == 3:
                    if broken == "die late":
                        raise ConnectionError
                    if broken == "end late":
                        return
                    if broken == "stall late":
                        await self._stall()
                    if broken == "error late":
                        error = {"message": "engine dead", "type": "x", "code": 500}
                        yield _data({"error": error})
                        return
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.num_closed += 1
            raise

    async def _stall(self) -> None:
        while not self.release.is_set():
            await asyncio.sleep(0.005)

    @contextmanager
    def running(self) -> Iterator["FakeVllm"]:
        with serving(self.app) as url:
            self.url = url
            try:
                yield self
            finally:
                self.release.set()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """An application behind a port of the loopback, in a thread; gives its address."""
    config = uvicorn.Config(
        app, port=0, log_level="critical", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _data(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _chunks(body: dict[str, Any], is_chat: bool, name: str) -> Iterator[dict[str, Any]]:
    continuous = body["stream_options"].get("continuous_usage_stats", False)
    number = body.get("n", 1)
    words = ([name] if name else []) + WORDS
    limit = body.get("max_tokens") or len(words) + 1
    is_stop = limit > len(words)
    totals = [0] * number

    def chunk(
        index: int, delta: dict[str, Any], tokens: list[str], reason: str | None = None
    ) -> Any:
        choice: dict[str, Any] = {"index": index, "finish_reason": reason}
        choice |= {"delta": delta} if is_chat else {"text": delta.get("content", "")}
        choice["logprobs"] = _logprobs(body, tokens, is_chat) if tokens else None
        if body.get("return_token_ids"):
            choice["token_ids"] = [IDS.get(token, END) for token in tokens]
        if reason:
            choice["stop_reason"] = None
        found: dict[str, Any] = {"id": "x", "object": "chunk", "model": body["model"]}
        found["choices"] = [choice]
        if continuous:
            found["usage"] = _usage(totals[index])
        return found

    if is_chat:
        for index in range(number):
            yield chunk(index, {"role": "assistant", "content": ""}, [])
    for place, word in enumerate(words[:limit]):
        for index in range(number):
            totals[index] += 1
            is_last = place + 1 == limit and not is_stop
            reason = "length" if is_last else None
            yield chunk(index, {"content": word}, [word], reason)
    if is_stop:
        for index in range(number):
            totals[index] += 1
            yield chunk(index, {"content": ""}, ["</s>"], "stop")
    usage = _usage(sum(totals)) | {"prompt_tokens_details": {"cached_tokens": 4}}
    yield {"id": "x", "object": "chunk", "model": body["model"], "choices": [], "usage": usage}


def _usage(completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": NUM_INPUT,
        "completion_tokens": completion,
        "total_tokens": NUM_INPUT + completion,
    }


def _logprobs(body: dict[str, Any], tokens: list[str], is_chat: bool) -> Any:
    if not body.get("logprobs") and body.get("logprobs") != 0:
        return None
    if not is_chat:
        return {
            "tokens": tokens,
            "token_logprobs": [-0.5] * len(tokens),
            "top_logprobs": [{token: -0.5, "other": -1.0} for token in tokens],
            "text_offset": [0] * len(tokens),
        }

    assert not body.get("return_tokens_as_token_ids")  # which loses the texts of the likeliest

    def entry(token: str) -> dict[str, Any]:
        return {"token": token, "logprob": -0.5, "bytes": list(token.encode())}

    number = body.get("top_logprobs", 0)
    content = [entry(token) | {"top_logprobs": [entry(token)] * number} for token in tokens]
    return {"content": content}
