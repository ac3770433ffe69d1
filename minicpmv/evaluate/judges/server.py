"""A judge behind an address that speaks OpenAI's protocol."""

import ipaddress
import json
import queue
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from minicpmv.addresses import check_address, without_password
from minicpmv.errors import first_line
from minicpmv.evaluate.judges.attempts import Said, settle
from minicpmv.evaluate.judges.protocol import JudgeReply, JudgeRequest
from minicpmv.media.download import httpx

_TRIES = 5  # of a request that the server could not take
_FIRST_WAIT_S, _MOST_WAIT_S = 1.0, 60.0
_CHECK_S = 20.0  # for the first word of a judge; one that takes longer may be waking up
_MOST_LOST = 40  # questions in a row without any answer: the judge is gone
_MOST_BYTES = 16 << 20  # of an answer
_MOST_LATE = 64  # tries in a row
_BUSY = (408, 409, 425, 429)  # the server asks to come again; so does every 5xx
_NOT_FOR_US = (401, 402, 403, 404, 405, 410)
_WHAT_TO_SET = (
    "Check the address (--judge), the model's name (--judge-model) and the key "
    "($MINICPMV_JUDGE_KEY or $OPENAI_API_KEY)"
)
_FILTERED = ("content_filter", "content_policy_violation", "content_policy")
_NO_MORE = ("insufficient_quota", "billing_hard_limit_reached", "credit_balance")


class ServerJudge:
    """Asks a server, several requests at a time.

    Args:
        url: with or without /v1 or /v1/chat/completions at its end.
        model: its name there; "" asks the server which one it has.
        api_key: sent as a bearer token.
        timeout_s: for one answer; what takes longer is no verdict.
        concurrency: requests at a time.
        sleep: waits before a request is sent again.

    Raises:
        ArgumentError: the address is none.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        concurrency: int = 8,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        base = checked_address(url)
        self.url = f"{base}/v1"
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._sleep = sleep
        self._api_key = api_key
        self._trusts_proxies = not _is_near(base)
        self._model = model or self._only_model()
        self._lock = threading.Lock()
        self._num_late = 0  # tries in a row that nothing came of
        self._has_answered = False
        self._limit_name = "max_tokens"  # newer models of OpenAI have another
        self._takes_temperature = True
        self.name = f"{without_password(self.url)} {self._model}"

    def check(self) -> None:
        """Ask for one word, to learn before hours of work what every question would meet.

        A list of models is not asked for: some servers show it without a key, and some take other
        names than it has. A judge that is busy, slow or broken at the moment passes.

        Raises:
            OSError: the judge cannot be reached, takes no requests from us, or knows no such model.
        """
        request = JudgeRequest([{"role": "user", "content": "Say yes."}], max_tokens=16)
        seconds = min(self._timeout_s, _CHECK_S)
        with self._client(seconds) as client:
            for _ in range(3):  # newer models have other words, at most two
                try:
                    status, _, body = self._post(client, self._body(request, 0.0), seconds)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    raise self._away(error) from error
                except (httpx.HTTPError, httpx.StreamError):
                    return
                message, code = _error(body)
                if status == 400 and self._adapt(message):
                    continue
                if status == 200:
                    self._has_answered = True
                elif self._is_final(status, code) or (
                    status in (400, 422) and _is_unknown(self._model, message, code)
                ):
                    raise self._refusal(status, message)
                return

    def _client(self, timeout_s: float | None = None) -> "httpx.Client":
        timeout_s = timeout_s or self._timeout_s
        key = self._api_key
        return httpx.Client(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx.Limits(max_connections=self._concurrency),
            trust_env=self._trusts_proxies,
        )

    def ask(
        self,
        requests: Sequence[JudgeRequest],
        on_reply: Callable[[int, JudgeReply], None] = lambda index, reply: None,
    ) -> list[JudgeReply]:
        with self._client() as client:
            return self._ask(client, requests, on_reply)

    def _ask(
        self,
        client: "httpx.Client",
        requests: Sequence[JudgeRequest],
        on_reply: Callable[[int, JudgeReply], None],
    ) -> list[JudgeReply]:
        work: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, JudgeReply | BaseException]] = queue.SimpleQueue()
        for index in range(len(requests)):
            work.put(index)
        has_ended = threading.Event()

        def run() -> None:
            while not has_ended.is_set():
                try:
                    index = work.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((index, self._settle(client, requests[index])))
                except BaseException as error:
                    done.put((index, error))

        # A run that is stopped does not wait for answers, so these are no threads of a pool.
        for _ in range(min(self._concurrency, len(requests))):
            threading.Thread(target=run, daemon=True).start()
        replies: dict[int, JudgeReply] = {}
        num_lost = 0
        try:
            for _ in requests:
                index, found = done.get()
                if isinstance(found, BaseException):
                    raise found
                replies[index] = found
                on_reply(index, found)
                num_lost = num_lost + 1 if found.why in ("timeout", "failed") else 0
                if num_lost == _MOST_LOST:
                    raise OSError(
                        f"The judge at {without_password(self.url)} has answered none of "
                        f"{num_lost} questions in a row, the last one: {found.said}. Run the same "
                        "command again when it answers; what is judged is kept."
                    )
        finally:
            has_ended.set()
        return [replies[index] for index in range(len(requests))]

    def _settle(self, client: "httpx.Client", request: JudgeRequest) -> JudgeReply:
        return settle(request, lambda temperature: self._once(client, request, temperature))

    def _once(self, client: "httpx.Client", request: JudgeRequest, temperature: float) -> Said:
        """One reply, after as many tries as the server needs to take the request."""
        failure = Said("", "failed")
        for attempt in range(_TRIES):
            is_last = attempt + 1 == _TRIES
            try:
                asked = self._body(request, temperature)
                status, headers, body = self._post(client, asked, self._timeout_s)
            except httpx.TimeoutException as error:
                if isinstance(error, httpx.ConnectTimeout):
                    self._unreachable(error, is_last)
                    self._wait(attempt)
                    continue
                return self._late()
            except httpx.ConnectError as error:
                self._unreachable(error, is_last)
                self._wait(attempt)
                continue
            except (httpx.HTTPError, httpx.StreamError) as error:
                failure = Said(f"broke off: {first_line(error)}", "failed")
                if not is_last:
                    self._wait(attempt)
                continue
            with self._lock:
                self._num_late = 0
            if status == 200:
                self._has_answered = True
                return _read(body)
            message, code = _error(body)
            failure = Said(f"status {status}: {message}", "failed")
            if code in _FILTERED:
                return Said(message, "refused")
            if self._is_final(status, code):
                raise self._refusal(status, message)
            if status == 400 and self._adapt(message):
                continue
            if status not in _BUSY and status < 500:
                return failure
            if not is_last:
                self._wait(attempt, headers.get("retry-after"))
        return failure

    def _is_final(self, status: int, code: str) -> bool:
        """Whether no other question would be answered either."""
        # Some servers say 403 to single requests, for what is asked in them.
        of_one = status == 403 and self._has_answered
        return (status in _NOT_FOR_US and not of_one) or code in _NO_MORE

    def _refusal(self, status: int, message: str) -> OSError:
        return OSError(
            f"The judge at {without_password(self.url)} takes no requests from us: "
            f"{_told(status, message)}. {_WHAT_TO_SET}; what is judged is kept."
        )

    def _late(self) -> Said:
        """
        Raises:
            OSError: it has been late so often that it seems to hang.
        """
        with self._lock:
            self._num_late += 1
            hangs = self._num_late >= _MOST_LATE
        if hangs:
            raise OSError(
                f"The judge at {without_password(self.url)} has answered none of {_MOST_LATE} "
                f"requests within {self._timeout_s:g} s. Restart it, or give it more time; what is "
                "judged is kept."
            )
        return Said(f"nothing within {self._timeout_s:g} s", "timeout")

    def _unreachable(self, error: Exception, is_last: bool) -> None:
        if is_last:
            raise self._away(error) from error

    def _away(self, error: Exception) -> OSError:
        return OSError(
            f"The judge at {without_password(self.url)} cannot be reached: {first_line(error)}. "
            "Start it, or give another; what is judged is kept."
        )

    def _wait(self, attempt: int, asked: str | None = None) -> None:
        """Wait as long as the server asks, else twice as long as before.

        Raises:
            OSError: it asks for more than a run should wait.
        """
        wait_s = _seconds(asked)
        if wait_s is None:
            wait_s = min(_FIRST_WAIT_S * 2**attempt, _MOST_WAIT_S) * random.uniform(0.75, 1.25)
        elif wait_s > _MOST_WAIT_S:
            raise OSError(
                f"The judge at {without_password(self.url)} asks to wait for {wait_s:.0f} s. Run "
                "the same command again then; what is judged is kept."
            )
        self._sleep(wait_s)

    def _body(self, request: JudgeRequest, temperature: float) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [dict(message) for message in request.messages],
        }
        with self._lock:
            if self._takes_temperature:
                body["temperature"] = temperature
            if request.max_tokens is not None:
                body[self._limit_name] = request.max_tokens
        return body

    def _adapt(self, message: str) -> bool:
        """Whether the request can be sent again in the words of newer models."""
        with self._lock:
            if "max_completion_tokens" in message and self._limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                return True
            if "temperature" in message and "nsupported" in message and self._takes_temperature:
                self._takes_temperature = False
                return True
            return False

    def _post(
        self, client: "httpx.Client", body: dict[str, Any], timeout_s: float
    ) -> tuple[int, Any, bytes]:
        ends = time.monotonic() + timeout_s
        parts: list[bytes] = []
        size = 0
        with client.stream("POST", f"{self.url}/chat/completions", json=body) as answer:
            for part in answer.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > _MOST_BYTES:
                    raise httpx.StreamError(f"an answer of more than {_MOST_BYTES >> 20} MB")
                if time.monotonic() > ends:
                    raise httpx.ReadTimeout("")
            return answer.status_code, answer.headers, b"".join(parts)

    def _only_model(self) -> str:
        """The one model of the server.

        Raises:
            OSError: it has none, or several, or does not say.
        """
        shown = without_password(self.url)
        try:
            with self._client() as client:
                answer = client.get(f"{self.url}/models")
            if answer.status_code in _NOT_FOR_US and answer.status_code != 404:
                raise OSError(
                    f"The judge at {shown} does not say its models: "
                    f"{_told(answer.status_code, _error(answer.content)[0])}. {_WHAT_TO_SET}."
                )
            found = answer.json()["data"]
            names = [str(each["id"]) for each in found]
        except httpx.HTTPError as error:
            raise OSError(
                f"The judge at {shown} cannot be reached: {first_line(error)}."
            ) from error
        except (ValueError, LookupError, TypeError) as error:
            raise OSError(
                f"The judge at {shown} does not say its models; name one with --judge-model."
            ) from error
        if len(names) != 1:
            listed = ", ".join(names[:10]) or "none"
            raise OSError(
                f"The judge at {shown} has {len(names)} models ({listed}); name one with "
                "--judge-model."
            )
        return names[0]


def checked_address(url: str) -> str:
    """The address of a server without /v1 and what follows.

    Raises:
        ArgumentError: it is none.
    """
    base = url.strip().rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    check_address(base, url, "`judge`")
    return base


def _read(body: bytes) -> Said:
    """The text of a completion."""
    try:
        choice = json.loads(body)["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        reason = choice.get("finish_reason")
        if isinstance(content, list):
            content = "".join(str(part.get("text") or "") for part in content)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Said(body[:200].decode("utf-8", "replace"), "garbage")
    if refusal or reason == "content_filter":
        return Said(str(refusal or content or ""), "refused")
    if content is not None and not isinstance(content, str):
        return Said(repr(content), "garbage")
    return Said(content or "")


def _error(body: bytes) -> tuple[str, str]:
    """The message and the code of an error."""
    try:
        error = json.loads(body)["error"]
        if isinstance(error, dict):
            code = str(error.get("code") or error.get("type") or "")
            return " ".join(str(error.get("message", "")).split())[:300], code
        return str(error)[:300], ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return " ".join(body[:300].decode("utf-8", "replace").split()), ""


def _is_unknown(model: str, message: str, code: str) -> bool:
    """Whether an error to a plain question says that there is no such model."""
    return model in message or code == "model_not_found" or "model not exist" in message.lower()


def _told(status: int, message: str) -> str:
    return f"status {status}, {message}".rstrip("., ")


def _seconds(asked: str | None) -> float | None:
    """What `Retry-After` means: seconds, or a date."""
    if not asked:
        return None
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _is_near(url: str) -> bool:
    """Whether the server is on this machine or this network, where no proxy leads."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".localhost"))
