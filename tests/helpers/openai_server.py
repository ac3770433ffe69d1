"""A server of OpenAI's shape on loopback, which says what it was asked."""

import asyncio
import contextlib
import json
import math
import threading
import time

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

PICTURES = {
    "patch_size": 14,
    "num_queries": 64,
    "max_slice_nums": 9,
    "scale_resolution": 448,
    "use_image_id": True,
}
WORDS = ["I", "see", "**two**", "figures:", "a", "red", "circle", "and", "a", "blue", "square."]


class FakeServer:
    """Answers word by word; `asked` keeps the bodies, `left` counts clients that went early.

    Fields:
        pause_s: between two words.
        refuses: the error that every question gets, or None.
        breaks_after: words after which the stream stops without a word, or None.
    """

    def __init__(self, words=WORDS, key=None):
        self.words = list(words)
        self.key = key
        self.pause_s = 0.0
        self.refuses = None
        self.breaks_after = None
        self.asked = []
        self.left = 0
        self.app = FastAPI()
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/chat/completions")(self.completions)
        self.app.get("/health")(lambda: {"status": "ok"})

    async def models(self, request: Request):
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "The key is wrong.", "code": "bad"}}, 401)
        names = ("tiny", "other")
        data = [{"id": name, "max_model_len": 8192, "pictures": PICTURES} for name in names]
        return {"object": "list", "data": data}

    async def completions(self, request: Request):
        body = await request.json()
        self.asked.append(body)
        if self.refuses is not None:
            return JSONResponse({"error": {"message": self.refuses, "code": "no"}}, 400)
        return StreamingResponse(self._chunks(body), media_type="text/event-stream")

    async def _chunks(self, body):
        is_whole = False
        try:
            yield ": waiting\n\n"
            yield _event([{"index": 0, "delta": {"role": "assistant", "content": ""}}])
            for index, word in enumerate(self.words[: body.get("max_tokens", 99)]):
                if index == self.breaks_after:
                    is_whole = True
                    return
                await asyncio.sleep(self.pause_s)
                text = word if index == 0 else f" {word}"
                yield _event([{"index": 0, "delta": {"content": text}, **_logprobs(body, text)}])
            yield _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
            usage = {"prompt_tokens": 100, "completion_tokens": len(self.words)}
            usage["prompt_tokens_details"] = {"cached_tokens": 40}
            yield _event([], usage=usage)
            yield "data: [DONE]\n\n"
            is_whole = True
        finally:
            self.left += not is_whole

    @contextlib.contextmanager
    def running(self, port=0):
        """The address of the server, while it runs in a thread."""
        config = uvicorn.Config(
            self.app, port=port, log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        socket = config.bind_socket()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            socket.close()


def _logprobs(body, text):
    if not body.get("logprobs"):
        return {}
    chance = 0.97 if len(text) > 4 else 0.4
    top = [{"token": text, "logprob": math.log(chance)}]
    top.append({"token": "<b>other</b>", "logprob": math.log((1 - chance) / 2)})
    return {"logprobs": {"content": [{**top[0], "top_logprobs": top}]}}


def _event(choices, **more):
    chunk = {"id": "x", "object": "chat.completion.chunk", "choices": choices, **more}
    return f"data: {json.dumps(chunk)}\n\n"
