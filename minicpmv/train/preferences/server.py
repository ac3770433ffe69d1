"""A model behind an OpenAI-compatible address, as judge or as splitter."""

import base64
import http.client
import io
import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...media.image import load_image

_THREADS = 8
_TOP = 20  # the most that servers give
YesNo = tuple[float, float]


class Server:
    """Asks for one answer at a time.

    Args:
        url: with or without /v1 or /v1/chat/completions at its end.
        model: its name there.
        timeout_s: of one answer.
    """

    def __init__(self, url: str, model: str = "", timeout_s: float = 300) -> None:
        base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self.url = f"{base}/v1/chat/completions"
        self.model = model
        self.timeout_s = timeout_s

    def complete(self, prompt: str) -> str:
        """The answer to a text, at temperature 0.2.

        Raises:
            OSError: the server cannot be reached, or refuses.
            ValueError: its answer has another form.
        """
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 256,
            "temperature": 0.2,
            "top_p": 0.9,
        }
        content = self._choice(body)["message"].get("content")
        return str(content or "")

    def yes_or_no(self, pictures: Sequence[Any], questions: Sequence[str]) -> list[YesNo]:
        """p(yes) and p(no) of the next token after each question.

        Raises:
            OSError, ValueError: as `complete`; or the server gives no probabilities.
        """
        shown = [_as_url(block) for block in pictures]
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda question: self._one(shown, question), questions))

    def _one(self, shown: Sequence[Mapping[str, Any]], question: str) -> YesNo:
        body = {
            "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
        logprobs = self._choice(body).get("logprobs")
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        if not tokens:
            raise ValueError(
                f"{self.url} gave no logprobs, which a judge needs; take a server that does."
            )
        found = {"yes": 0.0, "no": 0.0}
        try:
            for token in tokens[0]["top_logprobs"]:
                word = token["token"].strip(" \u2581\u0120")
                if word in ("yes", "Yes", "no", "No"):
                    found[word.lower()] += math.exp(token["logprob"])
        except (LookupError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{self.url} gave logprobs in another form: {json.dumps(tokens)[:200]}"
            ) from error
        if not all(0 <= share <= 1.001 for share in found.values()):
            raise ValueError(f"{self.url} gave no probabilities: {json.dumps(tokens)[:200]}")
        return found["yes"], found["no"]

    def _choice(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        model = {"model": self.model} if self.model else {"model": "default"}
        request = urllib.request.Request(
            self.url,
            json.dumps(model | dict(body)).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            said = error.read(500).decode(errors="replace")
            raise OSError(f"{self.url} answered {error.code}: {said}") from error
        except urllib.error.URLError as error:
            raise OSError(f"{self.url} cannot be reached: {error.reason}.") from error
        except TimeoutError as error:
            raise OSError(f"{self.url} has not answered in {self.timeout_s:g} s.") from error
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{self.url} broke off: {error}.") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.url} gave an answer that is no JSON: {error}.") from error
        try:
            choice: Mapping[str, Any] = answer["choices"][0]
            message = choice["message"]
        except (LookupError, TypeError) as error:
            raise ValueError(f"{self.url} gave no choices: {json.dumps(answer)[:200]}") from error
        if not isinstance(message, Mapping):
            raise ValueError(f"{self.url} gave no message: {json.dumps(answer)[:200]}")
        return choice


def _as_url(block: Mapping[str, Any]) -> dict[str, Any]:
    """A picture in the form of the protocol.

    Raises:
        ValueError: it is a video, which the protocol does not have.
    """
    if block["type"] != "image":
        raise ValueError("A server can judge pictures only; a row shows a video.")
    file = io.BytesIO()
    load_image(block["image"]).convert("RGB").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
