"""Benchmarks asked of servers: the items of a page as the rows of a batch.

Our own servers are asked all that a model in this process is. Of vLLM's fields the engine's search
with beams is not one; other servers are sent what OpenAI's API has. `Model.ignores` says which
settings are not obeyed.
"""

import asyncio
import base64
import json
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..addresses import without_password
from ..evaluate.answering import Model, Reply, release_of
from ..evaluate.asking import Asking, as_bytes
from ..evaluate.items import Item
from ..serve.upstream.client import httpx
from ..serve.upstream.pool import checked
from .refusals import OF_ALL, advice_for, said_in
from .rows import Row
from .run import Batch
from .workers import ANSWER_S, ServerWorker, servers

_URL = "/v1/chat/completions"
_LOOK_S = 10.0
_PROCESSING = ("max_slice_nums", "use_image_id")
_SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
# Fields of `Profile` that a kind of server has no words for.
_IGNORES = {
    "minicpmv": (),
    "vllm": ("num_beams",),
    "": ("num_beams", "repetition_penalty", "max_slice_nums", "use_image_id"),
}


class ServerAnswerer:
    """Servers that speak OpenAI's protocol.

    Args:
        urls: with or without `/v1`. name: of the model; "": the only one they have.
        concurrency: items that each is sent at a time.
        answer_s: seconds that one answer may take.
        patience_s: seconds without any server after which the run ends with an error.

    Raises:
        OSError: none of them answers us. ValueError: they have several models, and none is named.
    """

    def __init__(
        self,
        urls: Sequence[str],
        name: str = "",
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        answer_s: float = ANSWER_S,
        patience_s: float = 300.0,
    ):
        self._urls = [checked(url, "--base-url") for url in urls]
        self._api_key = api_key
        self._concurrency = concurrency
        self._answer_s = answer_s
        self._patience_s = patience_s
        found = _cards(self._urls, api_key)
        first, cards = next(iter(found.items()))
        card = _card_of(cards, name, without_password(first))
        for url, others in found.items():
            _card_of(others, str(card["id"]), without_password(url))  # all answer as one model
        owner = str(card.get("owned_by") or "").lower()
        self._kind = owner if owner in _IGNORES else ""
        self._name = str(card["id"])
        self.model = Model(
            self._name,
            release_of(self._name),
            server={"minicpmv": "minicpmv serve", "vllm": "vLLM"}.get(self._kind, "a server"),
            ignores=_IGNORES[self._kind],
        )

    def answers(
        self, asking: Asking, items: Iterable[Item]
    ) -> Generator[tuple[str, Reply], None, None]:
        """As of `evaluate.Answerer`."""
        ended: queue.SimpleQueue[tuple[str, Reply] | BaseException | None] = queue.SimpleQueue()
        rows = _Rows(iter(items), lambda item, whole: self._body(asking, item, whole), ended)
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._run(rows))

        def work() -> None:
            try:
                loop.run_until_complete(task)
            except BaseException as error:  # raised where the answers are read
                ended.put(error)
            else:
                ended.put(None)

        thread = threading.Thread(target=work, name="minicpmv-evaluate", daemon=True)
        thread.start()
        try:
            while (found := ended.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            loop.call_soon_threadsafe(task.cancel)  # nothing where it has ended
            thread.join()
            loop.close()  # here: closed by the thread, it could be before the line above

    async def _run(self, rows: "_Rows") -> None:
        found = servers(self._urls, self._concurrency, self._api_key, self._answer_s)
        async with found as workers:
            await self._batch(rows, workers)

    async def _batch(self, rows: "_Rows", workers: list[ServerWorker]) -> None:
        await Batch(rows, rows, workers, patience_s=self._patience_s).run()

    def _body(self, asking: Asking, item: Item, is_whole: bool) -> bytes:
        """A request; not whole: the longest answer is left out, as the context is too short."""
        options = dict(asking.options(item))
        options.pop("up_to_context")
        body: dict[str, Any] = {"model": self._name, "messages": _wire(asking.messages(item))}
        length = options.pop("max_new_tokens")
        if is_whole:
            body["max_tokens"] = length
        processing = {name: options.pop(name) for name in _PROCESSING if name in options}
        if any(each["type"] == "video" for each in _blocks(asking, item)):
            processing["use_image_id"] = False  # frames are sent as pictures
        if not options.pop("sampling"):
            body["temperature"] = 0
        if self._kind:
            body["repetition_penalty"] = options.pop("repetition_penalty", 1.0)
            if processing:
                body["mm_processor_kwargs"] = processing
        if self._kind == "minicpmv" and "num_beams" in options:
            body["num_beams"] = options["num_beams"]
        if "seed" in options:
            body["seed"] = options["seed"]
        return json.dumps(body, ensure_ascii=False).encode()


class _Rows:
    """Items as the rows of a batch, and what becomes of them: its source and its journal."""

    path = Path("the folder of the run")
    num_done = num_failed = 0

    def __init__(self, items: Iterator[Item], body: Any, ended: "queue.SimpleQueue[Any]"):
        self._items = items
        self._body = body
        self._ended = ended
        self._again: deque[Item] = deque()
        self._sent: dict[int, tuple[Item, bool]] = {}
        self._count = 0

    def rows(self) -> "_Rows":
        return self

    def __iter__(self) -> "_Rows":
        return self

    def __next__(self) -> Row:
        """The next row. After the last one there may be another: one that is sent again."""
        is_whole = not self._again
        item = self._again.popleft() if self._again else next(self._items)
        index, self._count = self._count, self._count + 1
        self._sent[index] = item, is_whole
        try:
            return Row(index, item.id, _URL, self._body(item, is_whole))
        except (ValueError, OSError) as error:
            return Row(index, item.id, _URL, fault=" ".join(str(error).split()))

    def has(self, index: int) -> bool:
        return False

    def add(self, index: int, result: dict[str, Any], *, failed: bool) -> None:
        """The result of a row: an answer, or once more without a longest one."""
        item, is_whole = self._sent.pop(index)
        if failed and is_whole and _is_too_long(result):
            self._again.append(item)
            return
        self._ended.put((item.id, _reply(result, failed)))


def _blocks(asking: Asking, item: Item) -> list[dict[str, Any]]:
    content = asking.conversation(item)[-1]["content"]
    return [] if isinstance(content, str) else content


def _wire(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as OpenAI writes them; the frames of a video are pictures."""
    found = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [part for block in content for part in _parts(block)]
        found.append({**message, "content": content})
    return found


def _parts(block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "image":
        return [_picture(block["image"])]
    if block["type"] == "video":
        if isinstance(block["video"], str):
            url = f"data:video/mp4;base64,{base64.b64encode(as_bytes(block['video'])).decode()}"
            return [{"type": "video_url", "video_url": {"url": url}}]
        return [_picture(frame) for frame in block["video"]]
    return [block]


def _picture(picture: Any) -> dict[str, Any]:
    data = as_bytes(picture)
    kind = next((kind for start, kind in _SIGNATURES if data.startswith(start)), "image/webp")
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _reply(result: dict[str, Any], failed: bool) -> Reply:
    response = result["response"]
    if response is None:
        return Reply(None, str(result["error"]["message"]))
    body = response["body"]
    if failed:
        error = body.get("error") or body  # vLLM has the message at the top
        said = error.get("message") if isinstance(error, dict) else error
        return Reply(None, f"status {response['status_code']}: {said or json.dumps(body)[:200]}")
    try:
        choice = body["choices"][0]
        text, finish = _text(choice["message"]["content"]), choice.get("finish_reason") or "stop"
    except (LookupError, TypeError, AttributeError):
        return Reply(None, f"the server sent {json.dumps(body)[:200]}")
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    return Reply(text.strip(), "", tokens if isinstance(tokens, int) else 0, 0.0, str(finish))


def _text(content: Any) -> str:
    """What a message says: a text, parts with texts, or nothing.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(content, list):
        return "".join(_text(part["text"]) for part in content)
    if not isinstance(content, str | None):
        raise TypeError(f"a message of {type(content).__name__}")
    return content or ""


def _is_too_long(result: dict[str, Any]) -> bool:
    response = result["response"]
    said = json.dumps(response["body"]) if response else ""
    return "context_length_exceeded" in said or "maximum context length" in said


def _cards(urls: Sequence[str], api_key: str | None) -> dict[str, list[dict[str, Any]]]:
    """What each server that answers says of its models; others may come later."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    found: dict[str, list[dict[str, Any]]] = {}
    reasons = []
    with httpx.Client(headers=headers, timeout=_LOOK_S, trust_env=False) as client:
        for url in dict.fromkeys(urls):
            try:
                answer = client.get(f"{url}/v1/models")
                if answer.status_code == 200:
                    found[url] = [each for each in answer.json()["data"] if "id" in each]
                    continue
                reasons.append(
                    _refusal(f"{without_password(url)}/v1/models", answer, bool(api_key))
                )
            except (httpx.HTTPError, ValueError, LookupError, TypeError):
                reasons.append(f"{without_password(url)} cannot be reached")
    if not found:
        raise OSError(f"No server says which models it has: {'; '.join(reasons)}.")
    return found


def _refusal(name: str, answer: "httpx.Response", has_key: bool) -> str:
    status = answer.status_code
    advice = f". {advice_for(status, has_key=has_key)}" if status in OF_ALL else ""
    return f"{name} answers with status {status}{said_in(answer.content)}{advice.removesuffix('.')}"


def _card_of(cards: list[dict[str, Any]], name: str, url: str) -> dict[str, Any]:
    known = ", ".join(str(card["id"]) for card in cards) or "none"
    if name:
        for card in cards:
            if card["id"] == name:
                return card
        raise ValueError(f"{url} has no model {name!r}; it has {known}.")
    if len(cards) != 1:
        raise ValueError(f"{url} has the models {known}; name one with --model.")
    return cards[0]
